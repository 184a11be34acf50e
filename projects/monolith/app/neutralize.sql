-- What a clone carries of production that could still act, made harmless.
-- Add to it whatever a new migration stores that acts, waits or opens a door:
-- queues are emptied, due work is parked, leases end, credentials are blanked.
-- It runs in one transaction, and again at each start; what it found the first time stays written.

INSERT INTO preview.neutralized (at, counts)
SELECT now(), jsonb_build_object(
  'jobs_parked', count(*) FILTER (WHERE next_run_at < 'infinity'),
  'leases_ended', count(*) FILTER (WHERE lease_id IS NOT NULL),
  'outbox_emptied', (SELECT count(*) FROM outbox.messages)
)
FROM scheduler.jobs
ON CONFLICT (only_row) DO NOTHING;

UPDATE scheduler.jobs
SET next_run_at = 'infinity', lease_id = NULL, lease_until = NULL
WHERE next_run_at < 'infinity' OR lease_id IS NOT NULL;

DELETE FROM outbox.messages;
