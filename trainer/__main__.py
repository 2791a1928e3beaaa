"""`python -m trainer` is the console command `optlab`."""

from trainer.cli import script

if __name__ == "__main__":
    script()
