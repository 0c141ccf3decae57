import {
  ACTORS,
  type Activity,
  AGENCIES,
  APPOINTERS,
  DOMAINS,
  type Domain,
  FACILITIES,
  FIRST_NAMES,
  LEAVE_REASONS,
  NAME_BEGINNINGS,
  NAME_ENDINGS,
  OFFENSES,
  PERIODS,
  RESERVES,
  STATES,
  STREETS,
} from './billPhrases.ts';
import {SeededRandom, stringHash} from './seededRandom.ts';

/**
 * A seeded generator of short bills in the style of the US Congress, each with a reference summary. It replaces BillSum
 * (bill text → summary), needs no download, and suits a model of a million parameters.
 *
 * A summary cannot be copied from one place in the text. Except for the short title, which comes first or last,
 * sections come in any order. Some belong in the summary (the action, its money, its limits, its end) and some do not
 * (findings, definitions, reports, severability); findings mention other laws, amounts and places on purpose. The facts
 * of one sentence in the summary may be in different sections, such as the agency in the definitions, or the penalty
 * apart from the offence. The summary also rewords: "the Secretary of Agriculture may make grants … to repair old
 * bridges" becomes "Allows the Department of Agriculture to award grants … for repairing old bridges", and "$5,000,000
 * for each of fiscal years 2025 through 2029" becomes "$5,000,000 a year through 2029".
 */

/** The action of a bill, which is one of nine kinds and determines the rest of the bill. */
export type Action =
  | {
      kind: 'grants';
      agency: string;
      recipients: string;
      activity: Activity;
      /** Bills say "may", summaries "Allows"; or "shall" and "Directs". */
      isMandatory: boolean;
      limit?: {kind: 'cap'; dollars: number} | {kind: 'share'; percent: number};
    }
  | {kind: 'naming'; facility: number; street: string; city: string; state: string; honoree: string}
  | {kind: 'taxCredit'; percent: number; cap: number; purchase: string}
  | {kind: 'study'; agency: string; subject: string; months: number}
  | {kind: 'prohibition'; actor: string; offense: Activity; fine: number}
  | {kind: 'amendment'; section: number; law: string; period: string; oldDays: number; newDays: number}
  | {kind: 'reserve'; name: string; acres: number; county: string; state: string}
  | {kind: 'leave'; employees: number; days: number; reason: string}
  | {kind: 'commission'; subject: string; members: number; appointer: string};

/** The money that a bill authorizes, or `'none'` if it says that no new money is authorized. */
export type Money =
  | {kind: 'yearly'; dollars: number; firstYear: number; lastYear: number}
  | {kind: 'once'; dollars: number; year: number}
  | {kind: 'none'};

/** The end of a bill: a date, or a number of years after it became law. */
export type Sunset = {kind: 'date'; year: number} | {kind: 'years'; years: number};

/** All facts of one bill, from which its text, its summary and all other documents about it are made. */
export interface BillFacts {
  /** Number of the bill, such as `H.R. 2841` or `S. 512`. */
  number: string;
  title: string;
  sponsor: string;
  sponsorState: string;
  domain: Domain;
  action: Action;
  money?: Money;
  sunset?: Sunset;
}

export interface Bill extends BillFacts {
  text: string;
  summary: string;
}

/** A record in LLaMA-Factory's format (`formatting: alpaca`). */
export interface AlpacaRecord {
  instruction: string;
  input: string;
  output: string;
}

/**
 * A split of the bills. `heldOut` bills use combinations that are in no other split (agency, recipients and purpose;
 * offence and offender; …) and, half of the time, names that are in no other split.
 */
export type Split = 'pretrain' | 'train' | 'heldOut';

export const INSTRUCTION = 'Summarize this bill.';

const SPLIT_SEEDS: Record<Split, number> = {pretrain: 0x5eed0001, train: 0x5eed0002, heldOut: 0x5eed0003};

/** The held-out split has one name in six and one combination in five for itself. */
const isHeldOutName = (name: string): boolean => stringHash(name) % 6 === 0;
const isHeldOutCombination = (parts: readonly unknown[]): boolean => stringHash(parts.join('|')) % 5 === 0;

/** Formats an amount: `25000000` → `$25,000,000`. */
export function dollars(amount: number): string {
  return `$${amount.toString().replace(/\B(?=(\d{3})+$)/g, ',')}`;
}

function capitalized(text: string): string {
  return text[0].toUpperCase() + text.slice(1);
}

/**
 * An endless source of different bills.
 *
 * @param split split whose names and combinations are used
 * @param seed two generators with the same split and seed make the same bills
 */
export class BillGenerator {
  readonly random: SeededRandom;

  constructor(
    readonly split: Split,
    seed = 0,
  ) {
    this.random = new SeededRandom((SPLIT_SEEDS[split] + Math.imul(seed, 0x9e3779b1)) >>> 0);
  }

  /** Returns the next bill. */
  next(): Bill {
    const facts = this.facts();
    return {...facts, text: this.text(facts), summary: billSummary(facts)};
  }

  /** Returns the next `count` bills. */
  take(count: number): Bill[] {
    return Array.from({length: count}, () => this.next());
  }

  /** Invents a name such as `Thornbury`. */
  name(): string {
    const wantsNewName = this.split === 'heldOut' && this.random.chance(0.5);
    for (;;) {
      const name = this.random.pick(NAME_BEGINNINGS) + this.random.pick(NAME_ENDINGS);
      if (isHeldOutName(name) === wantsNewName) return name;
    }
  }

  person(): string {
    return `${this.random.pick(FIRST_NAMES)} ${this.name()}`;
  }

  /** Invents the name of a law, such as `Thornbury Clean Water Act`. */
  lawTitle(domain: Domain): string {
    return `${this.name()} ${this.random.pick(domain.topics)} Act`;
  }

  private facts(): BillFacts {
    const {random} = this;
    const domain = random.pick(DOMAINS);
    const action = this.action(domain);
    const number = `${random.chance(0.7) ? 'H.R.' : 'S.'} ${random.integer(101, 9899)}`;
    const title =
      action.kind === 'naming'
        ? `${action.honoree} ${random.pick(['Memorial', 'Tribute', 'Honor'])} Act`
        : this.lawTitle(domain);
    const facts: BillFacts = {
      number,
      title,
      sponsor: this.person(),
      sponsorState: random.pick(STATES),
      domain,
      action,
    };
    const {money, sunset} = this.terms(action);
    if (money) facts.money = money;
    if (sunset) facts.sunset = sunset;
    return facts;
  }

  private action(domain: Domain): Action {
    for (;;) {
      const action = this.anyAction(domain);
      if (isHeldOutCombination(combinationOf(action)) === (this.split === 'heldOut')) return action;
    }
  }

  private anyAction(domain: Domain): Action {
    const {random} = this;
    const draw = random.next();
    if (draw < 0.34) {
      const limit = random.pick([
        undefined,
        {kind: 'cap', dollars: random.integer(1, 19) * 50_000} as const,
        {kind: 'share', percent: random.integer(10, 18) * 5} as const,
      ]);
      return {
        kind: 'grants',
        agency: random.pick(domain.agencies),
        recipients: random.pick(domain.recipients),
        activity: random.pick(domain.activities),
        isMandatory: random.chance(0.6),
        ...(limit && {limit}),
      };
    }
    if (draw < 0.44) {
      return {
        kind: 'naming',
        facility: random.integer(0, FACILITIES.length - 1),
        street: `${random.integer(11, 989)} ${random.pick(STREETS)}`,
        city: this.name(),
        state: random.pick(STATES),
        honoree: this.person(),
      };
    }
    if (draw < 0.53) {
      return {
        kind: 'taxCredit',
        percent: random.integer(2, 12) * 5,
        cap: random.integer(2, 30) * 250,
        purchase: random.pick(domain.purchases),
      };
    }
    if (draw < 0.65) {
      return {
        kind: 'study',
        agency: random.pick(domain.agencies),
        subject: random.pick(domain.subjects),
        months: random.integer(2, 12) * 3,
      };
    }
    if (draw < 0.74) {
      return {
        kind: 'prohibition',
        actor: random.pick(ACTORS),
        offense: random.pick(OFFENSES),
        fine: random.integer(2, 40) * 5000,
      };
    }
    if (draw < 0.82) {
      const [oldDays, newDays] = random.sample([10, 15, 20, 30, 45, 60, 75, 90, 120, 180], 2);
      return {
        kind: 'amendment',
        section: random.integer(2, 49),
        law: this.lawTitle(domain),
        period: random.pick(PERIODS),
        oldDays,
        newDays,
      };
    }
    if (draw < 0.89) {
      return {
        kind: 'reserve',
        name: `${this.name()} ${random.pick(RESERVES)}`,
        acres: random.integer(11, 990) * 100,
        county: this.name(),
        state: random.pick(STATES),
      };
    }
    if (draw < 0.94) {
      return {
        kind: 'leave',
        employees: random.integer(2, 20) * 10,
        days: random.integer(2, 12),
        reason: random.pick(LEAVE_REASONS),
      };
    }
    return {
      kind: 'commission',
      subject: random.pick(domain.subjects),
      members: random.integer(5, 19),
      appointer: random.pick(APPOINTERS),
    };
  }

  /** Chooses the money and the end of a bill, if its kind has them. */
  private terms(action: Action): {money?: Money; sunset?: Sunset} {
    const {random} = this;
    const firstYear = random.integer(2025, 2028);
    const spends = ['grants', 'study', 'reserve', 'commission'].includes(action.kind);
    let money: Money | undefined;
    if (spends && random.chance(0.8)) {
      const amount = random.chance(0.5) ? random.integer(1, 95) * 1_000_000 : random.integer(2, 19) * 50_000;
      const draw = random.next();
      if (draw < 0.6) {
        money = {kind: 'yearly', dollars: amount, firstYear, lastYear: firstYear + random.integer(2, 6)};
      } else if (draw < 0.85) money = {kind: 'once', dollars: amount, year: firstYear};
      else money = {kind: 'none'};
    }
    const ends = ['grants', 'taxCredit', 'commission', 'leave', 'prohibition'].includes(action.kind);
    let sunset: Sunset | undefined;
    if (ends && random.chance(money && money.kind !== 'none' ? 0.3 : 0.6)) {
      sunset = random.chance(0.5)
        ? {kind: 'date', year: firstYear + random.integer(3, 12)}
        : {kind: 'years', years: random.integer(3, 12)};
    }
    return {money, sunset};
  }

  /** Writes the text of the bill: numbered sections, in which the important ones are mixed with the others. */
  private text(facts: BillFacts): string {
    const {random} = this;
    const telling = this.tellingSections(facts);
    const others = random.sample(this.otherSections(facts), telling.length > 3 ? 1 : random.integer(1, 2));
    const sections = random.shuffle([...telling, ...others]);
    const shortTitle: Section = {
      heading: 'SHORT TITLE',
      body: random.pick([
        `This Act may be cited as the "${facts.title}".`,
        `This Act may be cited as the "${facts.title}".`,
        `This Act shall be known as the "${facts.title}".`,
      ]),
    };
    if (random.chance(0.25)) sections.push(shortTitle);
    else sections.unshift(shortTitle);
    const lines = sections.map(({heading, body}, index) => `SEC. ${index + 1}. ${heading}. ${body}`);
    return [facts.number, ...lines].join('\n');
  }

  private tellingSections(facts: BillFacts): Section[] {
    const {random} = this;
    const {action, money, sunset} = facts;
    const sections: Section[] = [];
    switch (action.kind) {
      case 'grants': {
        const {official, shortForm} = AGENCIES[action.agency];
        const [infinitive, gerund] = action.activity;
        const isDefined = random.chance(0.35);
        const who = isDefined ? `the ${shortForm}` : official;
        const verb = action.isMandatory ? 'shall' : 'may';
        sections.push({
          heading: random.pick(['GRANT PROGRAM', 'GRANTS', 'PROGRAM']),
          body: random.pick([
            `${capitalized(who)} ${verb} make grants to ${action.recipients} to ${infinitive}.`,
            `${capitalized(who)} ${verb} establish a program of grants to ${action.recipients} to ${infinitive}.`,
            `For the purpose of ${gerund}, ${who} ${verb} make grants to ${action.recipients}.`,
          ]),
        });
        if (isDefined) {
          sections.push({heading: 'DEFINITION', body: `In this Act, "${shortForm}" means ${official}.`});
        }
        if (action.limit?.kind === 'cap') {
          sections.push({
            heading: random.pick(['LIMITATION', 'AMOUNT OF GRANTS']),
            body: random.pick([
              `A grant under this Act may not exceed ${dollars(action.limit.dollars)}.`,
              `The amount of a grant shall be not more than ${dollars(action.limit.dollars)}.`,
            ]),
          });
        } else if (action.limit) {
          sections.push({
            heading: random.pick(['LIMITATION', 'FEDERAL SHARE']),
            body: `The Federal share of the cost of a project may not exceed ${action.limit.percent} percent.`,
          });
        }
        break;
      }
      case 'naming': {
        const {text, building} = FACILITIES[action.facility];
        const place = `${action.street} in ${action.city}, ${action.state}`;
        const name = `"${action.honoree} ${building}"`;
        sections.push({
          heading: 'DESIGNATION',
          body: random.pick([
            `${text} located at ${place}, shall be known as the ${name}.`,
            `${text} at ${place}, is designated as the ${name}.`,
          ]),
        });
        break;
      }
      case 'taxCredit': {
        const {percent, purchase} = action;
        sections.push({
          heading: random.pick(['TAX CREDIT', 'CREDIT ALLOWED']),
          body: random.pick([
            `There is allowed as a credit against income tax an amount equal to ${percent} percent of the cost of ${purchase}.`,
            `A taxpayer who buys ${purchase} is allowed a credit against income tax of ${percent} percent of the cost.`,
          ]),
        });
        sections.push({
          heading: 'LIMITATION',
          body: `The credit for a taxable year may not exceed ${dollars(action.cap)}.`,
        });
        break;
      }
      case 'study': {
        const {official, shortForm} = AGENCIES[action.agency];
        const isDefined = random.chance(0.3);
        const who = capitalized(isDefined ? `the ${shortForm}` : official);
        sections.push({heading: 'STUDY', body: `${who} shall conduct a study of ${action.subject}.`});
        if (isDefined) {
          sections.push({heading: 'DEFINITION', body: `In this Act, "${shortForm}" means ${official}.`});
        }
        sections.push({
          heading: 'REPORT',
          body: random.pick([
            `Not later than ${action.months} months after enactment, the results of the study shall be sent to Congress.`,
            `The results shall be reported to Congress not later than ${action.months} months after enactment.`,
          ]),
        });
        break;
      }
      case 'prohibition': {
        sections.push({
          heading: random.pick(['PROHIBITION', 'UNLAWFUL CONDUCT']),
          body: random.pick([
            `It shall be unlawful for ${action.actor} to ${action.offense[0]}.`,
            `${capitalized(action.actor)} may not ${action.offense[0]}.`,
          ]),
        });
        sections.push({
          heading: 'PENALTY',
          body: random.pick([
            `Whoever violates this Act shall be fined not more than ${dollars(action.fine)}.`,
            `A violation of this Act is punished by a fine of not more than ${dollars(action.fine)}.`,
          ]),
        });
        break;
      }
      case 'amendment':
        sections.push({
          heading: 'AMENDMENT',
          body:
            `Section ${action.section} of the ${action.law}, on the period for ${action.period}, is amended by ` +
            `striking "${action.oldDays} days" and inserting "${action.newDays} days".`,
        });
        break;
      case 'reserve': {
        const acres = dollars(action.acres).slice(1);
        const place = `${action.county} County, ${action.state}`;
        sections.push({
          heading: 'ESTABLISHMENT',
          body: random.pick([
            `There is established in ${place}, the ${action.name}.`,
            `The ${action.name} is established in ${place}.`,
          ]),
        });
        sections.push({
          heading: 'LAND',
          body: random.pick([
            `The area consists of about ${acres} acres of Federal land.`,
            `About ${acres} acres of Federal land are included.`,
          ]),
        });
        break;
      }
      case 'leave':
        sections.push({
          heading: random.pick(['PAID LEAVE', 'RIGHT TO LEAVE']),
          body: random.pick([
            `An employer shall give each employee ${action.days} days of paid leave a year for ${action.reason}.`,
            `Each employee is entitled to ${action.days} days of paid leave a year for ${action.reason}.`,
          ]),
        });
        sections.push({
          heading: 'COVERED EMPLOYERS',
          body: `This Act applies to employers with ${action.employees} or more employees.`,
        });
        break;
      case 'commission':
        sections.push({
          heading: 'COMMISSION',
          body: `There is established a commission on ${action.subject}.`,
        });
        sections.push({
          heading: 'MEMBERS',
          body: `The commission has ${action.members} members appointed by ${action.appointer}.`,
        });
        break;
    }
    if (money?.kind === 'yearly') {
      sections.push({
        heading: random.pick(['AUTHORIZATION OF APPROPRIATIONS', 'FUNDING']),
        body: random.pick([
          `There is authorized to be appropriated ${dollars(money.dollars)} for each of fiscal years ${money.firstYear} through ${money.lastYear}.`,
          `For each of fiscal years ${money.firstYear} through ${money.lastYear}, ${dollars(money.dollars)} is authorized to be appropriated.`,
        ]),
      });
    } else if (money?.kind === 'once') {
      sections.push({
        heading: random.pick(['AUTHORIZATION OF APPROPRIATIONS', 'FUNDING']),
        body: random.pick([
          `There is authorized to be appropriated ${dollars(money.dollars)} for fiscal year ${money.year}.`,
          `For fiscal year ${money.year}, ${dollars(money.dollars)} is authorized to be appropriated.`,
        ]),
      });
    } else if (money?.kind === 'none') {
      sections.push({heading: 'FUNDING', body: 'No additional funds are authorized to carry out this Act.'});
    }
    if (sunset?.kind === 'date') {
      sections.push({
        heading: random.pick(['SUNSET', 'TERMINATION']),
        body: `This Act shall cease to have effect on September 30, ${sunset.year}.`,
      });
    } else if (sunset?.kind === 'years') {
      sections.push({
        heading: random.pick(['SUNSET', 'TERMINATION']),
        body: `This Act shall cease to have effect ${sunset.years} years after enactment.`,
      });
    }
    return sections;
  }

  /** Writes sections that no summary mentions, although they contain laws, money, places and people too. */
  private otherSections(facts: BillFacts): Section[] {
    const {random} = this;
    const {domain, action} = facts;
    const [, gerund] = random.pick(domain.activities);
    const subject = random.pick(domain.subjects);
    const agency = AGENCIES[random.pick(domain.agencies)];
    const year = random.integer(2011, 2024);
    const findings = [
      `Congress finds that ${random.integer(11, 79)} percent of people in ${random.pick(STATES)} worry about ${subject}.`,
      `Congress finds that ${this.name()} County spent ${dollars(random.integer(2, 99) * 100_000)} on ${gerund} in ${year}.`,
      `Congress finds that the ${this.lawTitle(domain)} of ${year} has not improved ${subject}.`,
      `Congress finds that ${agency.official} studied ${subject} in ${year}.`,
    ];
    if (action.kind === 'naming') {
      findings.push(
        `Congress finds that ${action.honoree} served in the Army for ${random.integer(3, 31)} years.`,
        `Congress finds that ${action.honoree} taught in ${this.name()}, ${random.pick(STATES)}, for ${random.integer(3, 31)} years.`,
      );
    }
    return [
      {heading: 'FINDINGS', body: random.pick(findings)},
      {heading: 'FINDINGS', body: random.pick(findings)},
      {heading: 'SENSE OF CONGRESS', body: `It is the sense of Congress that ${gerund} serves the Nation.`},
      {
        heading: 'EFFECTIVE DATE',
        body: `This Act takes effect ${random.pick([30, 60, 90, 180])} days after enactment.`,
      },
      {heading: 'RULE OF CONSTRUCTION', body: `Nothing in this Act affects the ${this.lawTitle(domain)}.`},
      {
        heading: 'SEVERABILITY',
        body: 'If a provision of this Act is invalid, the remainder is not affected.',
      },
      {
        heading: 'CONSULTATION',
        body: `In carrying out this Act, the views of ${random.pick(domain.recipients)} in ${random.pick(STATES)} shall be heard.`,
      },
    ].filter(({heading}, index, all) => all.findIndex((other) => other.heading === heading) === index);
  }
}

interface Section {
  heading: string;
  body: string;
}

/** Returns the parts of an action whose combination decides the split of a bill. */
export function combinationOf(action: Action): readonly unknown[] {
  switch (action.kind) {
    case 'grants':
      return ['grants', action.agency, action.recipients, action.activity[0]];
    case 'naming':
      return ['naming', action.facility, action.state, action.street];
    case 'taxCredit':
      return ['taxCredit', action.purchase, action.percent];
    case 'study':
      return ['study', action.agency, action.subject, action.months];
    case 'prohibition':
      return ['prohibition', action.actor, action.offense[0]];
    case 'amendment':
      return ['amendment', action.period, action.oldDays, action.newDays];
    case 'reserve':
      return ['reserve', action.name.split(' ').slice(1).join(' '), action.state];
    case 'leave':
      return ['leave', action.reason, action.days];
    case 'commission':
      return ['commission', action.subject, action.members];
  }
}

/** Writes the reference summary: the short title, the action, the money and the end, always in this order. */
export function billSummary({title, action, money, sunset}: BillFacts): string {
  const sentences = [...actionSentences(action)];
  if (money?.kind === 'yearly')
    sentences.push(`Authorizes ${dollars(money.dollars)} a year through ${money.lastYear}.`);
  else if (money?.kind === 'once') sentences.push(`Authorizes ${dollars(money.dollars)} for ${money.year}.`);
  else if (money?.kind === 'none') sentences.push('Authorizes no new funds.');
  if (sunset?.kind === 'date') sentences.push(`Expires in September ${sunset.year}.`);
  else if (sunset?.kind === 'years') sentences.push(`Expires after ${sunset.years} years.`);
  return `${title} - ${sentences.join(' ')}`;
}

function actionSentences(action: Action): string[] {
  switch (action.kind) {
    case 'grants': {
      const sentences = [
        `${action.isMandatory ? 'Directs' : 'Allows'} ${AGENCIES[action.agency].agency} to award grants to ` +
          `${action.recipients} for ${action.activity[1]}.`,
      ];
      if (action.limit?.kind === 'cap')
        sentences.push(`Caps each grant at ${dollars(action.limit.dollars)}.`);
      else if (action.limit) sentences.push(`Limits the federal share to ${action.limit.percent}%.`);
      return sentences;
    }
    case 'naming':
      return [
        `Names ${FACILITIES[action.facility].summary} in ${action.city}, ${action.state}, after ${action.honoree}.`,
      ];
    case 'taxCredit':
      return [
        `Creates a ${action.percent}% tax credit for ${action.purchase}, up to ${dollars(action.cap)} a year.`,
      ];
    case 'study':
      return [
        `Requires ${AGENCIES[action.agency].agency} to study ${action.subject} and report within ${action.months} months.`,
      ];
    case 'prohibition':
      return [`Bars ${action.actor} from ${action.offense[1]}, with fines of up to ${dollars(action.fine)}.`];
    case 'amendment':
      return [
        `Changes the time for ${action.period} under the ${action.law} from ${action.oldDays} to ${action.newDays} days.`,
      ];
    case 'reserve':
      return [
        `Creates the ${action.name} on ${dollars(action.acres).slice(1)} acres in ${action.county} County, ${action.state}.`,
      ];
    case 'leave':
      return [
        `Requires employers with at least ${action.employees} workers to give ${action.days} paid days off a year for ${action.reason}.`,
      ];
    case 'commission':
      return [
        `Sets up a commission of ${action.members} members, named by ${action.appointer}, to examine ${action.subject}.`,
      ];
  }
}

/** Makes an instruction-tuning record of a bill. */
export function alpacaRecord({text, summary}: Bill): AlpacaRecord {
  return {instruction: INSTRUCTION, input: text, output: summary};
}

/**
 * Makes the quickstart's data: `count` records of a split, the same on every machine. A different `seed` gives
 * different bills of the same split.
 */
export function billRecords(split: Split, count: number, seed = 0): AlpacaRecord[] {
  return new BillGenerator(split, seed).take(count).map(alpacaRecord);
}
