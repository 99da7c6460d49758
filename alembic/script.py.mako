"""${message}

Revision ${up_revision}, after ${down_revision or "nothing"}. Migrations go forward only, and add: never rename or remove
within a major version, and keep the names and types written out here, whatever the catalogue becomes.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
