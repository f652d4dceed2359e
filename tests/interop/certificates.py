"""Certificates as operators make them: with openssl."""

import shutil
import subprocess

from waiting import LONG


def openssl(folder, *words):
    path = shutil.which("openssl")
    assert path, "openssl is not on the PATH"
    done = subprocess.run([path, *words], cwd=folder, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    return done.stdout


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


CA_CONFIG = """
[ca]
default_ca = own
[own]
database = {by}.index
certificate = {by}.pem
private_key = {by}.key
default_md = sha256
default_crl_days = 2
crlnumber = {by}.crlnumber
crl_extensions = list
[list]
authorityKeyIdentifier = keyid
"""


def revocation_list(folder, by, *names):
    """The list of an authority, BY.crl, with these certificates: of version 2, for which openssl wants to be asked."""
    config = folder / f"{by}.cnf"
    config.write_text(CA_CONFIG.format(by=by))
    (folder / f"{by}.index").touch()
    number = folder / f"{by}.crlnumber"
    number.exists() or number.write_text("01\n")
    for name in names:
        openssl(folder, "ca", "-config", config.name, "-revoke", f"{name}.pem")
    openssl(folder, "ca", "-config", config.name, "-gencrl", "-out", f"{by}.crl")
