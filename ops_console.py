"""The ops console of the spool in SPOOLQ_SPOOL: `streamlit run ops_console.py --server.address 127.0.0.1`.

`spoolq console ops` starts the same. The pages are in spoolq/console/ops/.
"""

from spoolq.console import ops

ops.main()
