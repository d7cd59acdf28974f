-- Step 3. Whether a model may rent, what it would have rented in shadow, and how many nodes a person wants for a while.
ALTER TABLE models ADD COLUMN promotion TEXT CHECK (promotion IS NULL OR json_valid(promotion));
ALTER TABLE models ADD COLUMN override TEXT CHECK (override IS NULL OR json_valid(override));
ALTER TABLE models ADD COLUMN shadow TEXT NOT NULL DEFAULT '';
-- A model that has rented already was let to: an upgrade takes that back from none.
INSERT INTO models (model) SELECT DISTINCT model FROM nodes WHERE model NOT IN (SELECT model FROM models);
UPDATE models SET promotion = json_object('by', 'upgrade', 'at', strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
    WHERE model IN (SELECT model FROM nodes);
