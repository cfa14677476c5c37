"""Text that comes in pieces, broken between words at the terminal's edge."""

from rich.cells import cell_len


class WordWrap:
    """Feed it pieces, print what it returns, and in the end what `rest` returns.

    A word is held back until its end has come. Lines and words wider than the terminal stay as they are, and
    so does indentation that leaves the first word room. `width` in cells of the terminal.
    """

    def __init__(self, width: int) -> None:
        self._width = max(width, 1)
        self._column = 0
        self._spaces = ""
        self._word = ""

    def feed(self, text: str) -> str:
        """What can be shown now."""
        shown = ""
        for char in text:
            if char == "\n":
                shown += self.rest() + "\n"
                self._column = 0
            elif char == " ":
                shown += self._end_word()
                self._spaces += " "
            else:
                self._word += char
        return shown

    def rest(self) -> str:
        """What was held back."""
        shown = self._end_word()
        self._spaces = ""
        return shown

    def _end_word(self) -> str:
        word, self._word = self._word, ""
        if not word:
            return ""
        gap, self._spaces = self._spaces, ""
        needed = cell_len(word)
        if self._column and self._column + len(gap) + needed > self._width:
            gap, self._column = "\n", 0
        elif needed <= self._width < len(gap) + needed:
            gap = ""  # an indentation that would break the word
        else:
            self._column += len(gap)
        self._column += needed
        if self._column > self._width:  # alone it is too wide: the terminal breaks it
            self._column = self._column % self._width or self._width
        return gap + word
