"""Certificates as operators make them: with openssl."""

import shutil
import subprocess

from waiting import LONG


def openssl(folder, *words):
    path = shutil.which("openssl")
    assert path, "openssl is not on the PATH"
    done = subprocess.run([path, *words], cwd=folder, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr


def authority(folder, name):
    """A certificate authority, NAME.pem and NAME.key."""
    made = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(folder, "req", "-x509", *key, *made)


def signed(folder, by, name, names):
    """A certificate with these names, NAME.pem and NAME.key."""
    made = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    more = ["-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"]
    openssl(folder, "req", "-x509", "-CA", f"{by}.pem", "-CAkey", f"{by}.key", *key, *made, *more)
