"""Adds configs/ to the wheel as trainer/examples; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["trainer*"]), "trainer.examples"],
    package_dir={"trainer.examples": "configs"},
    package_data={
        "trainer.examples": [
            "*.yaml",
            "*/*.yaml",
            "init/*.py",
            "suites/*.txt",
            "suites/*.tar.xz",
            "suites/*.json",
        ],
        "trainer.report": ["*.html", "*.css", "*.js"],
    },
)
