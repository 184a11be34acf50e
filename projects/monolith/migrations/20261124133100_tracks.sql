-- Where each ship was last in an hour whose positions are gone, and how fast at most.
CREATE TABLE ships.tracks (
  mmsi integer NOT NULL REFERENCES ships.ships (mmsi) ON DELETE CASCADE,
  hour timestamptz NOT NULL CHECK (hour = date_trunc('hour', hour, 'UTC')),
  seen_at timestamptz NOT NULL,
  latitude double precision NOT NULL,
  longitude double precision NOT NULL,
  top_speed_knots real NOT NULL,
  positions integer NOT NULL CHECK (positions > 0),
  PRIMARY KEY (mmsi, hour)
);
