"""The admin console of the spool in SPOOLQ_SPOOL: `streamlit run admin_console.py --server.address 127.0.0.1`.

`spoolq console admin` starts the same. The pages are in spoolq/console/admin/.
"""

from spoolq.console import admin

admin.main()
