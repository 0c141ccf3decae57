/** Stands in for a secret. */
const MASK = '***';

/** Secrets shorter than this are not masked by value, because they would match parts of ordinary words. */
const SHORTEST = 6;

/** Names of environment variables whose whole value is a secret. */
const SECRET_NAME = /(?:token|password|passwd|secret|api_?key)$/i;

/** The secrets given to {@link keepSecret}, masked wherever they occur. */
const known = new Set<string>();

/** Patterns that a secret matches whoever it belongs to. Each takes time linear in the text. */
const FORMS: [form: RegExp, masked: string][] = [
  [/:\/\/[^\s/?#]*@/g, `://${MASK}@`], // user and password in an address
  [/\bhf_[A-Za-z0-9]{30,}/g, `hf_${MASK}`], // a token of the Hugging Face hub
  [/\b(authorization\s{0,4}[:=]\s{0,4}["']?(?:bearer|basic|token)\s{1,4})[^\s"',;]+/gi, `$1${MASK}`],
  [
    /([?&][\w.-]{0,40}(?:token|secret|password|signature|credential|api[-_]?key)[\w.-]{0,40}=)[^\s&"'#]+/gi,
    `$1${MASK}`,
  ],
];

/**
 * Masks the secrets in a text that someone may see: those given to {@link keepSecret}, and whatever looks like one
 * (credentials in an address, tokens of the Hugging Face hub, signed parameters).
 */
export function maskSecrets(text: string): string {
  let masked = text;
  for (const secret of known) masked = masked.replaceAll(secret, MASK);
  for (const [form, mask] of FORMS) masked = masked.replace(form, mask);
  return masked;
}

/**
 * Keeps a secret out of every message from now on.
 *
 * @param value a token, or an address, whose user and password are the secret
 */
export function keepSecret(value: string | undefined): void {
  if (!value) return;
  const isAddress = value.includes('://');
  const credentials = isAddress ? credentialsOf(value) : value;
  if (!credentials) return;
  const [, password] = isAddress ? (/:(.*)/s.exec(credentials) ?? []) : [];
  for (const part of [credentials, password]) {
    for (const spelled of part ? spellings(part) : []) if (spelled.length >= SHORTEST) known.add(spelled);
  }
}

/** Keeps the secrets among environment variables: tokens by the variable's name, credentials in any address. */
export function keepSecretsOf(environment: Record<string, string | undefined>): void {
  for (const [name, value] of Object.entries(environment)) {
    if (value && (SECRET_NAME.test(name) || /:\/\/.*@/s.test(value))) keepSecret(value);
  }
}

/** Returns `user:password` of an address, even when a slash in the password keeps the address from parsing. */
function credentialsOf(address: string): string | undefined {
  return (URL.canParse(address) ? /:\/\/([^/?#]*)@/ : /:\/\/(.*)@/s).exec(address)?.[1];
}

/** Returns a text unchanged, percent-decoded and percent-encoded. */
function spellings(text: string): string[] {
  const forms = [text, encodeURIComponent(text.toWellFormed?.() ?? text)];
  try {
    forms.push(decodeURIComponent(text));
  } catch {
    // not percent-encoded
  }
  return forms;
}
