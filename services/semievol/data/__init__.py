"""Data intake: a user's file -> validated rows with stable ids, or `file:line: reason` for each row that cannot be used (R7).

formats.py   file -> records (line number, columns); one reader a format
rows.py      record -> Row, or the reason why not
intake.py    file -> DataSet: ids, duplicates, what happens with bad rows
overlaps.py  rows that occur in more than one place
"""
