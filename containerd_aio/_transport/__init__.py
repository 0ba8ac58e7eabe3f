"""The one seam every RPC passes: dialling, deadlines, headers, cancellation, errors. Private."""
