CREATE SCHEMA scheduler;

CREATE TABLE scheduler.jobs (
  name text PRIMARY KEY,
  interval interval NOT NULL CHECK (interval > interval '0'),
  next_run_at timestamptz NOT NULL DEFAULT now(),
  lease_id uuid,
  lease_until timestamptz,
  last_started_at timestamptz,
  last_finished_at timestamptz,
  last_result text CHECK (last_result IN ('ok', 'error')),
  last_error text,
  runs bigint NOT NULL DEFAULT 0,
  CHECK ((lease_id IS NULL) = (lease_until IS NULL))
);

CREATE INDEX jobs_next_run_at ON scheduler.jobs (next_run_at);
