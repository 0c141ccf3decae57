/** What takes a secret's place. */
const MASK = '***';

/** Shorter ones are not looked for by value: their letters would be found in ordinary words. */
const SHORTEST = 6;

/** Environment variables whose value is a secret as a whole. */
const SECRET_NAME = /(?:token|password|passwd|secret|api_?key)$/i;

/** Secrets that were made known; they are found wherever they stand. */
const known = new Set<string>();

/** Forms by which a secret is known whoever it belongs to. Each is matched in time linear in the text. */
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
 * Takes secrets out of a text that someone may see: those made known by {@link keepSecret}, and what has the form of
 * one (credentials in an address, tokens of the Hugging Face hub, signed parameters).
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
 * @param value a token, or an address, of which the user and the password are the secret
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

/** `user:password` of an address, also of one that does not parse since the password has a slash in it. */
function credentialsOf(address: string): string | undefined {
  return (URL.canParse(address) ? /:\/\/([^/?#]*)@/ : /:\/\/(.*)@/s).exec(address)?.[1];
}

/** As it is, and as it is with its percent signs resolved or put in. */
function spellings(text: string): string[] {
  const forms = [text, encodeURIComponent(text.toWellFormed?.() ?? text)];
  try {
    forms.push(decodeURIComponent(text));
  } catch {
    // not percent-encoded
  }
  return forms;
}
