"""Addresses and networks. An IPv4 address that came as IPv6 (`::ffff:10.0.0.1`, RFC 4291 §2.5.5.2) is the IPv4 address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def parse_address(text: str) -> Address | None:
    """An address in text form, or None where the text is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def parse_network(text: str) -> Network:
    """An address or a CIDR range; bits behind the prefix are ignored. Raises ValueError."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'"{text}" is not a network; write an address or CIDR range: 10.0.0.0/8, 192.0.2.7, fd00::/8') from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and (mapped := network.network_address.ipv4_mapped):
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


def within(address: Address, network: Network) -> bool:
    """Whether the address lies in the network; never where one is IPv4 and the other IPv6."""
    return address.version == network.version and address in network
