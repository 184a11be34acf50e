-- What the gardener works out. A note waits for it while `tended_at` is null: an edit clears it.
ALTER TABLE notes.notes
  ADD COLUMN body_tags text[] NOT NULL DEFAULT '{}',
  ADD COLUMN archived_at timestamptz,
  ADD COLUMN tended_at timestamptz;

CREATE INDEX notes_untended ON notes.notes (id) WHERE tended_at IS NULL;
CREATE INDEX notes_title ON notes.notes (title);

CREATE TABLE notes.links (
  note_id bigint NOT NULL REFERENCES notes.notes (id) ON DELETE CASCADE,
  title text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
  PRIMARY KEY (note_id, title)
);

CREATE INDEX links_title ON notes.links (title);
