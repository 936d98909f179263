class TextGeneration:
    pass
