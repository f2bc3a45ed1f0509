"""What runs inside Windows when it starts for the first time at its destination, and what starts it. Pure.

A service entry starts it: ``cmd.exe /c start ... firstboot.cmd``. cmd.exe is no service, so Windows notes that it did
not answer (events 7009 and 7000; with ``ErrorControl`` 0 nothing else happens), but what it started runs on as the
local system, in every Windows and without a program of ours. The script removes the service in the end. Not chosen:
``RunOnce`` waits for somebody to log in; ``Setup\\CmdLine`` runs before services, so installers fail; start-up scripts
of a local policy are overruled by a domain's.

Every script runs once (its mark is made before it starts: one that restarts the machine does not do so for ever), is
limited in time and has a log of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from coriolis.convert.plugin import Script
from coriolis.convert.windows.origin_agents import Program
from coriolis.convert.windows.paths import DRIVE
from coriolis.convert.windows.registry import Edit, dword, expand_sz, multi_sz, sz

SERVICE = "CoriolisFirstBoot"
TOP = f"{DRIVE}/Program Files/Coriolis/firstboot"
SCRIPTS, DONE, PACKAGES = f"{TOP}/scripts", f"{TOP}/done", f"{TOP}/packages"
WINDOWS_TOP = r"%SystemDrive%\Program Files\Coriolis\firstboot"
SCRIPT_LIMIT_S = 1800
MAX_SCRIPTS = 50
_CMD = r"%SystemRoot%\System32\cmd.exe"
_CLOUDBASE_PLUGINS = (
    "cloudbaseinit.plugins.common.mtu.MTUPlugin",
    "cloudbaseinit.plugins.windows.ntpclient.NTPClientPlugin",
    "cloudbaseinit.plugins.windows.extendvolumes.ExtendVolumesPlugin",
    "cloudbaseinit.plugins.common.userdata.UserDataPlugin",
    "cloudbaseinit.plugins.common.localscripts.LocalScriptsPlugin",
)
_UTF8_MARK = b"\xef\xbb\xbf"

LAUNCHER = r"""@echo off
rem Started once by the service CoriolisFirstBoot after this machine was migrated.
set "HERE=%~dp0"
if not exist "%HERE%log" md "%HERE%log"
if not exist "%HERE%done" md "%HERE%done"
"%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe" -NoProfile -NonInteractive -ExecutionPolicy Bypass ^
  -File "%HERE%run.ps1" >> "%HERE%log\run.log" 2>&1
"%SystemRoot%\System32\sc.exe" delete CoriolisFirstBoot >> "%HERE%log\run.log" 2>&1
"""

RUNNER = rf"""# Runs scripts\* in the order of their names: each once, {SCRIPT_LIMIT_S} seconds at most, with its log.
$here = Split-Path -Parent $MyInvocation.MyCommand.Path
foreach ($script in @(Get-ChildItem (Join-Path $here 'scripts') | Sort-Object Name)) {{
    $mark = Join-Path $here "done\$($script.Name)"
    if (Test-Path $mark) {{ continue }}
    Set-Content $mark (Get-Date)
    $log = Join-Path $here "log\$($script.Name)"
    if ($script.Extension -eq '.ps1') {{
        $program = Join-Path $env:SystemRoot 'System32\WindowsPowerShell\v1.0\powershell.exe'
        $words = "-NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$($script.FullName)`""
    }} else {{
        $program = Join-Path $env:SystemRoot 'System32\cmd.exe'
        $words = "/d /c call `"$($script.FullName)`""
    }}
    Write-Output "$(Get-Date) $($script.Name) starts"
    $process = Start-Process $program -ArgumentList $words -PassThru -WindowStyle Hidden `
        -RedirectStandardOutput "$log.out" -RedirectStandardError "$log.err"
    $null = $process.Handle   # without it the exit code is lost
    if ($process.WaitForExit({SCRIPT_LIMIT_S * 1000})) {{
        Write-Output "$(Get-Date) $($script.Name) ended with $($process.ExitCode)"
    }} else {{
        & taskkill.exe /T /F /PID $process.Id
        Write-Output "$(Get-Date) $($script.Name) was stopped after {SCRIPT_LIMIT_S} seconds"
    }}
}}
"""

DRIVERS = r"""# Windows installs without asking only what a trusted publisher signed: the valid signers of these files.
$directory = Join-Path $env:SystemRoot 'Drivers\VirtIO'
foreach ($catalogue in @(Get-ChildItem $directory -Filter *.cat)) {
    $signature = Get-AuthenticodeSignature $catalogue.FullName
    if ($signature.Status -ne 'Valid') { Write-Output "$($catalogue.Name): $($signature.Status)"; continue }
    $store = New-Object System.Security.Cryptography.X509Certificates.X509Store('TrustedPublisher', 'LocalMachine')
    $store.Open('ReadWrite')
    $store.Add($signature.SignerCertificate)
    $store.Close()
}
foreach ($inf in @(Get-ChildItem $directory -Filter *.inf)) {
    & "$env:SystemRoot\System32\pnputil.exe" -i -a $inf.FullName
}
"""


def service_edits(control_sets: Sequence[str]) -> list[Edit]:
    """The service that starts ``firstboot.cmd``."""
    image = rf'{_CMD} /d /c start "Coriolis" /b {_CMD} /d /c call "{WINDOWS_TOP}\firstboot.cmd"'
    edits = []
    for control_set in control_sets:
        key = rf"{control_set}\Services\{SERVICE}"
        edits += [
            Edit(key, "Type", dword(0x10)),
            Edit(key, "Start", dword(2)),
            Edit(key, "ErrorControl", dword(0)),
            Edit(key, "ImagePath", expand_sz(image)),
            Edit(key, "ObjectName", sz("LocalSystem")),
            Edit(key, "DisplayName", sz("Coriolis: first start after the migration")),
            Edit(key, "DependOnService", multi_sz(["RpcSs"])),
        ]
    return edits


def removal(programs: Sequence[Program]) -> str:
    """Uninstall programs of the origin; empty when there are none. Only product codes get into the script."""
    lines = [
        f"Start-Process msiexec.exe -Wait -ArgumentList '/x {one.code} /qn /norestart REBOOT=ReallySuppress'\n"
        for one in programs
    ]
    return "".join(lines)


def install_msi(name: str, options: str = "") -> str:
    """Install ``packages\\name``, a plain file name."""
    return (
        "$package = Join-Path (Split-Path -Parent (Split-Path -Parent $MyInvocation.MyCommand.Path)) "
        f"'packages\\{name}'\n"
        f'Start-Process msiexec.exe -Wait -ArgumentList "/i `"$package`" /qn /norestart{options}"\n'
    )


def install_cloudbase(name: str, metadata: Sequence[str]) -> str:
    """Install cloudbase-init for the destination's metadata. It changes no password and no host name."""
    lines = (
        "[DEFAULT]",
        r"bsdtar_path=C:\Program Files\Cloudbase Solutions\Cloudbase-Init\bin\bsdtar.exe",
        r"local_scripts_path=C:\Program Files\Cloudbase Solutions\Cloudbase-Init\LocalScripts" "\\",
        r"logdir=C:\Program Files\Cloudbase Solutions\Cloudbase-Init\log" "\\",
        "logfile=cloudbase-init.log",
        "allow_reboot=false",
        "stop_service_on_exit=false",
        f"metadata_services={','.join(metadata)}",
        f"plugins={','.join(_CLOUDBASE_PLUGINS)}",
    )
    text = "".join(f"{line}\r\n" for line in lines)
    return (
        install_msi(name)
        + "$conf = Join-Path $env:ProgramFiles 'Cloudbase Solutions\\Cloudbase-Init\\conf\\cloudbase-init.conf'\n"
        + f"if (Test-Path (Split-Path -Parent $conf)) {{\n    Set-Content $conf @'\n{text}'@\n}}\n"
        + "Set-Service cloudbase-init -StartupType Automatic\n"
    )


def user_script(script: Script, number: int) -> tuple[str, bytes]:
    """(file name, content) of an operator's script: a command file if it begins like one, else PowerShell."""
    first = script.payload.lstrip().lower()
    is_command = first.startswith(("@echo", "rem ", "::", "@rem"))
    name = f"{600 + number}-user.{'cmd' if is_command else 'ps1'}"
    return name, command_file(script.payload) if is_command else powershell(script.payload)


def powershell(text: str) -> bytes:
    """With the mark by which PowerShell knows UTF-8, and Windows' line ends."""
    return _UTF8_MARK + _lines(text)


def command_file(text: str) -> bytes:
    return _lines(text)


def _lines(text: str) -> bytes:
    return text.replace("\r\n", "\n").replace("\n", "\r\n").encode("utf-8", "replace")
