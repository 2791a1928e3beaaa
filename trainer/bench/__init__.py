"""What this machine can do: optlab's loop against others' on the same network and data."""
