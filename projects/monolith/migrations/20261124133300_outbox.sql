CREATE SCHEMA outbox;

-- What is to be said on Discord. A row with `due_at` infinity is parked: it can never be sent.
CREATE TABLE outbox.messages (
  key text PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 300),
  channel bigint NOT NULL CHECK (channel > 0),
  text text NOT NULL CHECK (length(text) BETWEEN 1 AND 2000),
  reply_to bigint,
  created_at timestamptz NOT NULL DEFAULT now(),
  due_at timestamptz NOT NULL DEFAULT now(),
  claimed_until timestamptz,
  attempts integer NOT NULL DEFAULT 0,
  sent_at timestamptz,
  message_id bigint,
  last_error text,
  CHECK ((sent_at IS NULL) = (message_id IS NULL))
);

CREATE INDEX messages_waiting ON outbox.messages (created_at) WHERE sent_at IS NULL;
CREATE INDEX messages_sent_at ON outbox.messages (sent_at) WHERE sent_at IS NOT NULL;
