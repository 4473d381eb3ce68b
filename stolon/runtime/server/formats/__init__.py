"""How models write thoughts and tool calls, read from their answers piece by piece.

An answer's text goes in as it comes, cut anywhere; out come pieces: text, thoughts, and calls with their arguments.
Where the text was cut makes no difference to what comes out in all. What is no call is text, to the last character.
"""
