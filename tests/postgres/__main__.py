"""`python -m tests.postgres [storm|failover]`: 20,000 messages under kills with a host cut off, and five failovers."""

import os
import subprocess
import sys
from pathlib import Path

PARTS = {"storm": "test_kill.py", "failover": "test_failover.py"}


def main() -> int:
    asked = sys.argv[1:] or list(PARTS)
    tests = [str(Path(__file__).parent / PARTS[part]) for part in asked]
    environ = os.environ | {"SPOOLQ_PROOF": "full"}
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-s", *tests], env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
