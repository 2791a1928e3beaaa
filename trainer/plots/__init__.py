"""The figures of one run, drawn from its tables without torch or pyplot.

The caller reads the tables and can pass the function that writes figure files.
"""
