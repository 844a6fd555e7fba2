"""The header block of a tar member (POSIX.1-1988 ustar, POSIX.1-2001 pax, GNU tar)."""

from __future__ import annotations

from dataclasses import dataclass, replace

BLOCK = 512
"""A tar is a series of blocks of this size; the last ones are zero."""

_FILES = b"0\x007"
"""Regular files: ustar's, the oldest tars', contiguous ones."""
_WITHOUT_CONTENT = b"123456"
"""Links, devices, folders, pipes: a size there means something else."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says of its member."""

    name: str
    size: int
    """Bytes of content."""
    kind: bytes
    """ustar's typeflag."""

    @property
    def padding(self) -> int:
        """Bytes between the content and the next header."""
        return -self.size % BLOCK

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file: not a folder, a link or a device."""
        return self.kind in _FILES

    @property
    def is_extension(self) -> bool:
        """Whether its content describes the next member (GNU's long names, pax records)."""
        return self.kind in b"LKxg"

    def described(self, extension: Header, content: bytes) -> Header:
        """This header with what the extension before it says of the member. ValueError: nothing that is understood."""
        if extension.kind == b"L":
            return replace(self, name=_text(content))
        if extension.kind != b"x":
            return self
        records = _pax_records(content)
        if any(keyword.startswith(b"GNU.sparse.") for keyword in records):
            raise ValueError("a sparse file")
        return replace(
            self,
            name=_text(records[b"path"]) if b"path" in records else self.name,
            size=self.size if b"size" not in records or self.kind in _WITHOUT_CONTENT else _decimal(records[b"size"]),
        )


def parse(block: bytes) -> Header:
    """The header in a block of 512 bytes.

    Raises ValueError: it is none by its checksum, or one of a sparse file, whose content is not simply there.
    """
    # The sum counts its own field as spaces.
    if int(block[148:156].strip(b"\0 "), 8) != sum(block) - sum(block[148:156]) + 8 * 32:
        raise ValueError("another checksum")
    kind, field = block[156:157], block[124:136]
    if kind == b"S":
        raise ValueError("a sparse file")
    size = int.from_bytes(field[1:], "big") if field[0] & 0x80 else int(field.strip(b"\0 ") or b"0", 8)
    if size < 0:
        raise ValueError("a negative size")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return Header(name, 0 if kind in _WITHOUT_CONTENT else size, kind)


def _text(field: bytes) -> str:
    """A name, which ends at its first zero."""
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _decimal(digits: bytes) -> int:
    if not digits.isdigit():
        raise ValueError("not a number")
    return int(digits)


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    """The records `length keyword=value\\n` of a pax header. ValueError: it holds something else."""
    records = {}
    while content.strip(b"\0"):
        digits = content.partition(b" ")[0]
        length = _decimal(digits)
        keyword, equals, value = content[len(digits) + 1 : length].partition(b"=")
        if length > len(content) or not equals or not value.endswith(b"\n"):
            raise ValueError("no pax record")
        records[keyword], content = value[:-1], content[length:]
    return records
