"""The tables of a ledger, and the connection to its file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

# finished: the cases of the last run that came to its end; what a data set is, these decide
TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    key TEXT PRIMARY KEY, place INTEGER NOT NULL, now INTEGER NOT NULL, root TEXT NOT NULL, status TEXT NOT NULL,
    reason TEXT NOT NULL, case_id TEXT NOT NULL, source TEXT NOT NULL, content TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS places ON records (place);
CREATE INDEX IF NOT EXISTS cases ON records (case_id);
CREATE INDEX IF NOT EXISTS contents ON records (content);
CREATE TABLE IF NOT EXISTS finished (key TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS others (image TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS people (who TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS origins (root TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TEMP TABLE sightings (key TEXT PRIMARY KEY, rank INTEGER, name TEXT, who TEXT);
CREATE INDEX temp.sightings_by_name ON sightings (name, who);
CREATE TEMP TABLE claims (file TEXT PRIMARY KEY, rank INTEGER);
CREATE TEMP TABLE found (key TEXT PRIMARY KEY, root TEXT, line BLOB, scan TEXT, task INTEGER DEFAULT 0);
CREATE TEMP TABLE twice (line TEXT);
CREATE TEMP TABLE aside (key TEXT PRIMARY KEY);
CREATE TEMP TABLE voxels (content TEXT, shape TEXT, key TEXT);
CREATE INDEX temp.by_content ON voxels (content);
CREATE INDEX temp.by_shape ON voxels (shape);
"""


_PRAGMAS = """
PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -400; PRAGMA temp_store = FILE;
PRAGMA secure_delete = ON; BEGIN EXCLUSIVE; COMMIT;
PRAGMA temp.cache_size = -400;
"""


def connected(file: Path, options: str = "") -> sqlite3.Connection:
    """A connection that nobody shares; without locks where the file system has none (some network file systems)."""
    connection = sqlite3.connect(f"{file.absolute().as_uri()}{options}", uri=True, timeout=1.0, isolation_level=None)
    try:
        connection.executescript(_PRAGMAS)
    except sqlite3.DatabaseError as error:
        connection.close()
        if not options and any(words in str(error) for words in ("locking protocol", "disk I/O")):
            return connected(file, "?nolock=1")
        raise
    return connection
