"""The verbs, one module each: options and help. A function imports its implementation when called."""
