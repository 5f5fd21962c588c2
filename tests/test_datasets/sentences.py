"""Check error messages."""


def one_sentence(text: object) -> bool:
    """Return whether the text of an error is a single sentence."""
    text = str(text)
    return text.endswith('.') and '. ' not in text and '\n' not in text
