"""The one exception that is a user's to mend; every command ends it with one line and exit code 2."""


class UserError(ValueError):
    """Says what is wrong, what was found, what is allowed and what to do, in one line that names the path."""
