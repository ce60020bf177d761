"""Triggers by which the database itself keeps rows as they are, as each of the engines writes them.

Released migrations call these: what they make may not change any more.
"""

from alembic import op


def sqlite() -> bool:
    """Which of the two engines."""
    return op.get_bind().dialect.name == "sqlite"


def is_not() -> str:
    """Differs, with null as a value."""
    return "IS NOT" if sqlite() else "IS DISTINCT FROM"


def refuse(table: str, act: str, what: str, when: str = "", suffix: str = "") -> None:
    """Let the database itself refuse to update or delete."""
    name = "_".join(filter(None, ("tr", table, act.lower(), suffix)))
    message = f"loradock:immutable {what}"
    condition = f"WHEN ({when})" if when else ""
    if sqlite():
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {act} ON {table} FOR EACH ROW {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )
        return
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION '{message}' USING ERRCODE = 'restrict_violation'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {name} BEFORE {act} ON {table} FOR EACH ROW {condition} "
        f"EXECUTE FUNCTION {name}()"
    )
    if not when:
        op.execute(
            f"CREATE TRIGGER {name}_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION {name}()"
        )


def keep_on_insert(
    table: str, keys: tuple[str, ...], *, also: str = "", again: bool = False
) -> None:
    """Keep SQLite's row whose key an insert has, whatever the insert says is to be done then.

    `again` is for what may come again unchanged: the insert then does nothing.
    """
    same = [" AND ".join(f"{column} = NEW.{column}" for column in key.split(", ")) for key in keys]
    same += [also] if also else []
    taken = " OR ".join(f"EXISTS (SELECT 1 FROM {table} WHERE {condition})" for condition in same)
    refusal = f"ABORT, 'loradock:immutable a row of {table}'"
    op.execute(
        f"CREATE TRIGGER tr_{table}_insert BEFORE INSERT ON {table} FOR EACH ROW WHEN {taken} "
        f"BEGIN SELECT RAISE({'IGNORE' if again else refusal}); END"
    )


def append_only(table: str, *keys: str) -> None:
    """Refuse every change to a table's rows; `keys` are its unique keys."""
    refuse(table, "UPDATE", f"a row of {table}")
    refuse(table, "DELETE", f"a row of {table}")
    if sqlite():
        keep_on_insert(table, keys)


def drop_triggers(table: str, *acts: str) -> None:
    """Drop a table's triggers before the table; SQLite's go with it."""
    if sqlite():
        return
    for act in acts or ("update", "delete"):
        op.execute(f"DROP FUNCTION IF EXISTS tr_{table}_{act}() CASCADE")
