"""Text from outside made safe to show: label values are whatever a scraped target says."""


def printable(text: str) -> str:
    r"""The text with everything that is not a plain character written as an escape.

    So that no label value can move the cursor of a terminal, change its colours, turn the reading
    direction, or break a file's encoding.

    >>> print(printable("a\x1b[2Jb"), printable("caf\u00e9"), printable("\u202eevil"))
    a\x1b[2Jb café \u202eevil
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
