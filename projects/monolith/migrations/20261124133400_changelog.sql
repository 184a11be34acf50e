CREATE SCHEMA changelog;

-- `last_seen` is null for a repository that was never polled, and empty for one without a commit.
CREATE TABLE changelog.repositories (
  name text PRIMARY KEY,
  last_seen text,
  etag text,
  not_before timestamptz,
  failures integer NOT NULL DEFAULT 0,
  last_error text
);
