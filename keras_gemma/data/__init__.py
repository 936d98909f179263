"""Where the text of the bundled models comes from."""
