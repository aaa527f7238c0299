"""Which address is in which network; Python's ipaddress is the judge."""

import ipaddress
import random
import re

import pytest

from proxyhelper.networks import Networks

INSIDE = {
    "192.0.2.1": ["192.0.2.1", "::ffff:192.0.2.1", "::FFFF:192.0.2.1", "0:0:0:0:0:ffff:c000:0201"],
    "192.0.2.0/24": ["192.0.2.0", "192.0.2.255", "::ffff:192.0.2.7"],
    "192.0.2.77/24": ["192.0.2.0", "192.0.2.255"],
    "192.0.2.64/26": ["192.0.2.64", "192.0.2.127"],
    "192.0.2.1/32": ["192.0.2.1"],
    "0.0.0.0/0": ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"],
    "::ffff:192.0.2.1": ["192.0.2.1", "::ffff:192.0.2.1"],
    "::ffff:192.0.2.0/120": ["192.0.2.0", "192.0.2.255", "::ffff:192.0.2.9"],
    "::ffff:0:0/96": ["0.0.0.0", "255.255.255.255"],
    "2001:db8::1": ["2001:db8::1", "2001:DB8:0::0001"],
    "2001:db8::/32": ["2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"],
    "2001:db8::/33": ["2001:db8:7fff::"],
    "::/0": ["::", "::1", "2001:db8::1"],
    "::1/128": ["::1"],
    "192.0.2.1,::1 ,\t198.51.100.0/24\n": ["192.0.2.1", "::1", "198.51.100.9"],
}
OUTSIDE = {
    "": ["192.0.2.1", "::1", "", "0.0.0.0", "::"],
    " , ,": ["192.0.2.1", ""],
    "192.0.2.1": ["192.0.2.0", "192.0.2.2", "::192.0.2.1", "::1"],
    "192.0.2.0/24": ["192.0.1.255", "192.0.3.0", "c000:200::", "::c000:201"],
    "192.0.2.64/26": ["192.0.2.63", "192.0.2.128"],
    "0.0.0.0/0": ["::", "::1", "2001:db8::1", "::1.2.3.4"],
    "::/0": ["0.0.0.0", "192.0.2.1", "::ffff:192.0.2.1"],
    "::ffff:192.0.2.0/120": ["192.0.3.0", "::192.0.2.1"],
    "2001:db8::/32": ["2001:db7:ffff::", "2001:db9::", "32.1.13.184"],
    "2001:db8::/33": ["2001:db8:8000::"],
    "0.0.0.0/0 ::/0": [
        "",
        "unknown",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.01",
        "::g",
        "::1%lo",
        "ä",
        "\udcff",
        "1\0",
        "/",
    ],
}
NO_NETWORKS = [
    "192.0.2.0/33",
    "192.0.2.0/-1",
    "192.0.2.0/+1",
    "192.0.2.0/",
    "192.0.2.0/ 8",
    "192.0.2.0/x",
    "192.0.2.0/8/8",
    "192.0.2.0/1_0",
    "192.0.2.0/²",
    "192.0.2.0/٣",
    "192.0.2.0/255.255.255.0",
    "192.0.2.0/" + "9" * 5000,
    "192.0.2.0/" + "9" * 4000,
    "192.0.2",
    "192.0.2.256",
    "192.0.02.1",
    "192.0.2.1-192.0.2.9",
    "::ffff:192.0.2.0/95",
    "::ffff:192.0.2.0/24",
    "::1/129",
    ":::",
    "[::1]",
    "fe80::1%lo",
    "/24",
    "/",
    "balancer.example.com",
    "192.0.2.1;192.0.2.2",
    "ä",
    "\udcff",
    "192.0.2.1\0",
]


@pytest.mark.parametrize("text", INSIDE)
def test_inside(text):
    networks = Networks(text)
    assert [ip for ip in INSIDE[text] if ip not in networks] == []


@pytest.mark.parametrize("text", OUTSIDE)
def test_outside(text):
    networks = Networks(text)
    assert [ip for ip in OUTSIDE[text] if ip in networks] == []


@pytest.mark.parametrize("text", NO_NETWORKS)
def test_the_part_that_is_no_network_is_named(text):
    part = text.split()[0]
    with pytest.raises(ValueError, match=r"is no (address or )?network") as caught:
        Networks(f"198.51.100.0/24, {text} ::1")
    assert repr(part) in str(caught.value)
    assert "198.51.100" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("localhost", "'localhost' is no address or network: 'localhost' is no address"),
        ("192.0.2.1\0/24", "'192.0.2.1\\x00/24' is no address or network: '192.0.2.1\\x00' is no address"),
        ("\udcff", r"'\udcff' is no address or network: '\udcff' is no address"),
        ("192.0.2.0/x", "'192.0.2.0/x' is no address or network: 'x' is no number of bits"),
        ("192.0.2.0/33", "'192.0.2.0/33' is no network: 192.0.2.0 cannot have a prefix of 33 bits"),
        (
            "::ffff:192.0.2.0/24",
            "'::ffff:192.0.2.0/24' is no network: ::ffff:192.0.2.0 cannot have a prefix of 24 bits",
        ),
    ],
)
def test_what_is_wrong_is_said(text, reason):
    with pytest.raises(ValueError, match="is no") as caught:
        Networks(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize("seed", range(20))
def test_as_ipaddress_says(seed):
    chance = random.Random(seed)
    for _ in range(100):
        new, bits = chance.choice([(ipaddress.IPv4Address, 32), (ipaddress.IPv6Address, 128)])
        base = chance.getrandbits(bits)
        length = chance.randrange(bits + 1)
        near = base ^ chance.getrandbits(bits) >> chance.randrange(bits + 1)
        network, address = Networks(f"{new(base)}/{length}"), new(near)
        expected = address in ipaddress.ip_network(f"{new(base)}/{length}", strict=False)
        assert (str(address) in network) is expected
        assert (address.exploded in network) is expected
        if bits == 32:
            mapped = f"::ffff:{address}"
            assert (mapped in network) is expected
            assert (mapped in Networks(f"::ffff:{new(base)}/{96 + length}")) is expected


@pytest.mark.parametrize("seed", range(20))
def test_garbage(seed):
    chance = random.Random(seed)
    for _ in range(500):
        text = "".join(chance.choice("0129.:/,af -\0é") for _ in range(chance.randrange(20)))
        parts = text.replace(",", " ").split()
        wrong = [part for part in parts if not is_network(part)]
        if wrong:
            with pytest.raises(ValueError, match=re.escape(repr(wrong[0]))):
                Networks(text)
        else:
            networks = Networks(text)
            assert all(part.partition("/")[0] in networks for part in parts)


def is_network(part):
    try:
        Networks(part)
    except ValueError:
        return False
    return True
