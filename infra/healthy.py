"""Health check: exits with 0 if the address answers, else says why not."""

import sys
import urllib.request

try:
    urllib.request.urlopen(sys.argv[1], timeout=5).close()
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")
