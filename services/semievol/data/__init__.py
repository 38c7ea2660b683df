"""Data intake: a user's file -> validated rows with stable ids, or `file:line: reason` for each row that cannot be used (R7).

sources.py      where rows are: a file, a dataset directory (directories.py), a dataset of the hub
formats.py      file -> records (line number, columns: tables.py); one reader a format, Parquet by arrow.py
columns.py      a file's columns -> ours; chats.py reads a question and an answer from messages
rows.py         record -> Row, or the reason why not
intake.py       source -> DataSet: ids, duplicates, what happens with bad rows
overlaps.py     rows that occur in more than one place; near.py: rows that say nearly the same
guess.py        what a file seems to be, where nobody says it
writing.py      records -> file
"""
