import {BlockList, isIP} from 'node:net';

const addresses = new BlockList();
addresses.addSubnet('127.0.0.0', 8, 'ipv4');
addresses.addAddress('::1', 'ipv6');
addresses.addSubnet('::ffff:127.0.0.0', 104, 'ipv6');

/** Whether an address is one of those that only the machine itself reaches. */
export function isLoopback(address: string): boolean {
  const version = isIP(address);
  return version !== 0 && addresses.check(address, version === 4 ? 'ipv4' : 'ipv6');
}

/** The host of a `Host` header, without port and brackets, in small letters. */
export function hostName(header: string): string {
  return header
    .replace(/:\d+$/, '')
    .replace(/^\[|\]$/g, '')
    .toLowerCase();
}
