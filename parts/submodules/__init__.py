"""The layers a Conformer is made of, one file per idea."""
