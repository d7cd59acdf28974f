-- Step 2. How long each launched machine took, from its create call on, to stand in a complete listing: what the
-- settling time is learned from. A row for each launch, so that one launch is never counted twice.
CREATE TABLE listing_lags (node TEXT PRIMARY KEY, seconds REAL NOT NULL, at TEXT NOT NULL) STRICT;
CREATE INDEX listing_lags_seconds ON listing_lags (seconds);
