import {BlockList, isIP} from 'node:net';

const addresses = new BlockList();
addresses.addSubnet('127.0.0.0', 8, 'ipv4');
addresses.addAddress('::1', 'ipv6');
addresses.addSubnet('::ffff:127.0.0.0', 104, 'ipv6');

/** Whether an address is a loopback address, which only the machine itself can reach. */
export function isLoopback(address: string): boolean {
  const version = isIP(address);
  return version !== 0 && addresses.check(address, version === 4 ? 'ipv4' : 'ipv6');
}

/** Returns the host of a `Host` header in lower case, without port and brackets. */
export function hostName(header: string): string {
  return header
    .replace(/:\d+$/, '')
    .replace(/^\[|\]$/g, '')
    .toLowerCase();
}
