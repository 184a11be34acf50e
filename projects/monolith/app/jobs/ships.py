"""The job that keeps the table of positions small, and what it loses as hourly tracks."""

import asyncio
from datetime import timedelta

from app.jobs.tools import Tools

RETENTION = timedelta(days=30)
BATCH = 1000
PAUSE_SECONDS = 0.05

# Positions go in the transaction that counts them, so none counts twice. Tracks are written in one
# order and positions that another worker holds are left to it, so no two workers wait in a circle.
_DROP = """
WITH old AS MATERIALIZED (
  SELECT mmsi, seen_at FROM ships.positions WHERE seen_at < now() - $1::interval
  ORDER BY seen_at LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM ships.positions AS position USING old
  WHERE position.mmsi = old.mmsi AND position.seen_at = old.seen_at
  RETURNING position.*
), hourly AS (
  SELECT DISTINCT ON (mmsi, hour) mmsi, hour, seen_at, latitude, longitude,
    max(speed_knots) OVER same AS top_speed_knots, count(*) OVER same AS positions
  FROM gone, date_trunc('hour', seen_at, 'UTC') AS hour
  WINDOW same AS (PARTITION BY mmsi, hour)
  ORDER BY mmsi, hour, seen_at DESC
), kept AS (
  INSERT INTO ships.tracks AS track
    (mmsi, hour, seen_at, latitude, longitude, top_speed_knots, positions)
  SELECT * FROM hourly ORDER BY mmsi, hour
  ON CONFLICT (mmsi, hour) DO UPDATE SET
    seen_at = greatest(track.seen_at, EXCLUDED.seen_at),
    latitude = CASE WHEN EXCLUDED.seen_at > track.seen_at
      THEN EXCLUDED.latitude ELSE track.latitude END,
    longitude = CASE WHEN EXCLUDED.seen_at > track.seen_at
      THEN EXCLUDED.longitude ELSE track.longitude END,
    top_speed_knots = greatest(track.top_speed_knots, EXCLUDED.top_speed_knots),
    positions = track.positions + EXCLUDED.positions
)
SELECT count(*) FROM gone
"""


async def drop_old_positions(tools: Tools) -> None:
    """Drop positions past their retention and keep their tracks, a bounded batch a transaction."""
    while await tools.pool.fetchval(_DROP, RETENTION, BATCH):
        await asyncio.sleep(PAUSE_SECONDS)
