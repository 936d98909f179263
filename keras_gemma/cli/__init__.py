"""`keras-gemma VERB`: the library from a terminal. One file a verb; `main` lists them."""
