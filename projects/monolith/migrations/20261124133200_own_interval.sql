-- A person's interval, which outlives the table of jobs that each start writes.
ALTER TABLE scheduler.jobs
  ADD COLUMN own_interval interval CHECK (own_interval > interval '0');
