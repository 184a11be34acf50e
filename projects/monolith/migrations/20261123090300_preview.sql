CREATE SCHEMA preview;

-- One row in a clone that was neutralised, none in production.
CREATE TABLE preview.neutralized (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  at timestamptz NOT NULL,
  counts jsonb NOT NULL
);
