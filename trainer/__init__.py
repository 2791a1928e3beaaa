"""optlab: YAML in, an honest optimizer comparison out."""
