"""Values of other libraries, and of the user's own classes: looking at one runs code of theirs."""


def plain(value: object) -> object:
    """Return an array, a tensor or a scalar of a library as Python's own value; any other value as it is.

    By the method that all of them have, so that no library is loaded for it: NumPy, PyTorch, JAX, pandas.
    """
    own = getattr(value, "tolist", None)
    return own() if callable(own) else value


def short(value: object) -> str:
    """Return a value and its type for a message."""
    try:
        text = short_text(repr(value))
    except Exception as error:  # the user's own object, or one that is nested too deep
        text = f"what cannot be shown: {type(error).__name__}"
    return f"{text} ({type(value).__name__})"


def short_text(text: str) -> str:
    """Return a text for a message, cut off if it is long."""
    return text if len(text) <= 120 else f"{text[:117]}..."
