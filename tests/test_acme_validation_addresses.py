"""Which addresses applicants may send us to: public ones, in whatever clothes the others come."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.acme.validation.addresses import explain_refusal, parse_address

NEVER = """
    0.0.0.0 0.1.2.3 169.254.169.254 169.254.0.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    100.100.100.200 168.63.129.16 192.0.0.192 :: fe80::1 febf::1 fec0::1 ff02::1 fd00:ec2::254 fd20:ce::254
    ::ffff:169.254.169.254 ::ffff:0.0.0.0 64:ff9b::169.254.169.254
""".split()  # noqa: SIM905 - a list of quoted words is hard to read
PRIVATE = """
    10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 127.0.0.1 127.255.255.254 100.64.0.1 100.127.255.255
    192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 ::1 fc00::1 fdff::1
    ::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 ::8.8.8.8 64:ff9b::10.0.0.1 64:ff9b::127.0.0.1
    64:ff9b:1::1 100::1 2001::1 2001:0:102:304:: 2001:2::1 2001:10::1 2001:db8::1 2002:0a00:0001::
    2002:7f00:1::1 2002:808:808::1 3fff::1 5f00::1 ::ffff:0:10.0.0.1
""".split()  # noqa: SIM905 - a list of quoted words is hard to read
PUBLIC = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 93.184.215.14 100.63.255.255 100.128.0.1 172.15.255.255 172.32.0.1
    192.0.1.1 192.167.255.255 192.169.0.1 198.17.255.255 198.20.0.1 223.255.255.255 2606:4700::1111
    2a00:1450::1 64:ff9b::8.8.8.8 2620:fe::fe
""".split()  # noqa: SIM905 - as above


@pytest.mark.parametrize("text", NEVER)
def test_some_addresses_are_never_connected_to(text: str) -> None:
    """This host, link-local, multicast and metadata addresses are refused in private networks as well."""
    for allows_private in (False, True):
        assert explain_refusal(ip_address(text), allows_private=allows_private)


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_need_the_setting(text: str) -> None:
    """All that is not reached over the public network is refused, unless private addresses are allowed."""
    assert explain_refusal(ip_address(text), allows_private=False)
    assert explain_refusal(ip_address(text), allows_private=True) is None


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_allowed(text: str) -> None:
    """What is reached over the public network is allowed, right up to the borders of what is not."""
    assert explain_refusal(ip_address(text), allows_private=False) is None


@given(st.ip_addresses())
def test_python_agrees(address: IPv4Address | IPv6Address) -> None:
    """Nothing that Python does not call global is allowed, and nothing that it calls multicast."""
    if explain_refusal(address, allows_private=False) is None:
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_clothes_do_not_matter(address: IPv4Address) -> None:
    """An address within another is refused at least where the naked one is."""
    for allows_private in (False, True):
        if explain_refusal(address, allows_private=allows_private):
            for dress in ("::ffff:", "64:ff9b::"):
                assert explain_refusal(IPv6Address(f"{dress}{address}"), allows_private=allows_private)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "127.1", "0x7f.0.0.1", "2130706433", "", "localhost", "127.0.0.1 "])
def test_other_spellings_are_no_addresses(text: str) -> None:
    """Spellings that some system libraries take for addresses are names here, and lead nowhere."""
    assert parse_address(text) is None
