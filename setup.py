"""What pyproject.toml cannot say: `pytest_remote_ci.pth` lies beside the packages, also in an editable installation."""

from setuptools import Distribution, setup  # comes first: since Python 3.12 it brings distutils

# isort: split
from distutils.command.install_data import install_data


class BesidePackages(install_data):
    """Data files go where packages go."""

    def finalize_options(self) -> None:
        """As the command that installs packages has it."""
        super().finalize_options()
        self.install_dir = self.get_finalized_command("install").install_lib


class WithData(Distribution):
    """setuptools' `editable_wheel` asks this by a name that no distribution has."""

    def has_data(self) -> bool:
        """Whether there are data files."""
        return self.has_data_files()


setup(
    distclass=WithData,
    cmdclass={"install_data": BesidePackages},
    data_files=[("", ["pytest_remote_ci.pth"])],
)
