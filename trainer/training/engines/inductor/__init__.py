"""The compiled engine. Private names of torch are used only in this folder."""
