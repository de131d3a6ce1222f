"""See the package documentation below; import it as ``monolith.streaming``."""

if __name__ != "monolith.streaming":
    raise ImportError(
        f"import monolith.streaming, not {__name__}: top-level 'streaming' is only a folder of the checkout"
    )
