CREATE SCHEMA ships;

CREATE TABLE ships.ships (
  mmsi integer PRIMARY KEY CHECK (mmsi BETWEEN 100000000 AND 999999999),
  name text NOT NULL,
  kind text NOT NULL
);

CREATE TABLE ships.positions (
  mmsi integer NOT NULL REFERENCES ships.ships (mmsi) ON DELETE CASCADE,
  seen_at timestamptz NOT NULL,
  latitude double precision NOT NULL CHECK (latitude BETWEEN -90 AND 90),
  longitude double precision NOT NULL CHECK (longitude BETWEEN -180 AND 180),
  speed_knots real NOT NULL CHECK (speed_knots >= 0),
  PRIMARY KEY (mmsi, seen_at)
);

CREATE INDEX positions_seen_at ON ships.positions (seen_at);
