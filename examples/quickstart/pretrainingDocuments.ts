import {type Bill, BillGenerator, dollars} from './billGenerator.ts';
import {AGENCIES, DOMAINS, FACILITIES, STATES} from './billPhrases.ts';

/**
 * The training data of the quickstart's base model: bills, each followed by another text about the same bill (a
 * committee report, a newspaper item, a catalogue card, a conversation of questions and answers). The second half can
 * only be predicted by finding names, amounts and dates in the first, so the model learns to copy from its context. No
 * document has the form "instruction, bill, summary", and none describes a bill in the words of the reference
 * summaries: fine-tuning teaches that.
 */

/** A fact that can be asked about a bill. */
interface Fact {
  question: string;
  answer: string;
  /** The fact as a line of a catalogue card. */
  card: string;
  /** The fact as a clause of a report, following "The bill" or "It". */
  report: string;
  /** The fact as a sentence of a newspaper item. */
  news: string;
}

/** Returns all facts that other documents may mention about a bill, the action first. */
export function billFacts({action, money, sunset}: Bill): Fact[] {
  const facts: Fact[] = [];
  switch (action.kind) {
    case 'grants': {
      const {agency} = AGENCIES[action.agency];
      const [infinitive, gerund] = action.activity;
      facts.push(
        {
          question: 'Who runs the program?',
          answer: `${capitalized(agency)}.`,
          card: `${action.isMandatory ? 'Directs' : 'Allows'}: ${agency}`,
          report: action.isMandatory
            ? `puts ${agency} in charge of the grants`
            : `leaves the grants to ${agency}`,
          news: action.isMandatory
            ? `${capitalized(agency)} would have to run it.`
            : `${capitalized(agency)} could run it.`,
        },
        {
          question: 'Who gets the grants?',
          answer: `${capitalized(action.recipients)}.`,
          card: `Award grants to: ${action.recipients}`,
          report: `helps ${action.recipients} ${infinitive}`,
          news: `${capitalized(action.recipients)} could get money for ${gerund}.`,
        },
        {
          question: 'What is the money for?',
          answer: `For ${gerund}.`,
          card: `Purpose: ${gerund}`,
          report: `pays for ${gerund} by ${action.recipients}`,
          news: `The money is for ${gerund}.`,
        },
        {
          question: 'Must the agency make grants?',
          answer: action.isMandatory ? 'Yes, it is directed to.' : 'No, it is allowed to.',
          card: action.isMandatory ? 'Duty: directed' : 'Duty: allowed',
          report: action.isMandatory ? 'makes the program a duty' : 'makes the program a choice',
          news: action.isMandatory ? 'The program is a must.' : 'The program is a choice.',
        },
      );
      if (action.limit?.kind === 'cap') {
        facts.push({
          question: 'Is there a limit?',
          answer: `Yes, ${dollars(action.limit.dollars)} a grant.`,
          card: `Caps: ${dollars(action.limit.dollars)}`,
          report: `holds each grant to ${dollars(action.limit.dollars)}`,
          news: `No grant could be larger than ${dollars(action.limit.dollars)}.`,
        });
      } else if (action.limit) {
        facts.push({
          question: 'Is there a limit?',
          answer: `Yes, a federal share of ${action.limit.percent}%.`,
          card: `Limits: federal share ${action.limit.percent}%`,
          report: `sets the federal share at ${action.limit.percent}%`,
          news: `Washington would pay up to ${action.limit.percent}% of the cost.`,
        });
      }
      break;
    }
    case 'naming': {
      const {summary} = FACILITIES[action.facility];
      facts.push(
        {
          question: 'What gets a new name?',
          answer: `${capitalized(summary)} in ${action.city}, ${action.state}.`,
          card: `Names: ${summary} in ${action.city}, ${action.state}`,
          report: `gives a name to ${summary} in ${action.city}, ${action.state}`,
          news: `${capitalized(summary)} in ${action.city}, ${action.state}, would get a new name.`,
        },
        {
          question: 'Who is honored?',
          answer: `${action.honoree}.`,
          card: `After: ${action.honoree}`,
          report: `honors ${action.honoree}`,
          news: `The name is that of ${action.honoree}.`,
        },
      );
      break;
    }
    case 'taxCredit':
      facts.push(
        {
          question: 'What is the credit for?',
          answer: `For ${action.purchase}.`,
          card: `Creates: tax credit for ${action.purchase}`,
          report: `helps people who buy ${action.purchase}`,
          news: `Buyers of ${action.purchase} would pay less tax.`,
        },
        {
          question: 'How large is the credit?',
          answer: `${action.percent}% of the cost, at most ${dollars(action.cap)}.`,
          card: `Up to: ${action.percent}%, ${dollars(action.cap)}`,
          report: `returns ${action.percent}% of the cost and at most ${dollars(action.cap)}`,
          news: `They could get ${action.percent}% back, but no more than ${dollars(action.cap)}.`,
        },
      );
      break;
    case 'study': {
      const {agency} = AGENCIES[action.agency];
      facts.push(
        {
          question: 'What is studied?',
          answer: `${capitalized(action.subject)}.`,
          card: `Study: ${action.subject}`,
          report: `asks ${agency} about ${action.subject}`,
          news: `${capitalized(agency)} would look at ${action.subject}.`,
        },
        {
          question: 'Who makes the study?',
          answer: `${capitalized(agency)}.`,
          card: `Requires: ${agency}`,
          report: `gives the work to ${agency}`,
          news: `The work falls to ${agency}.`,
        },
        {
          question: 'How long may it take?',
          answer: `${action.months} months.`,
          card: `Report within: ${action.months} months`,
          report: `leaves ${action.months} months for the work`,
          news: `Congress would hear more in ${action.months} months.`,
        },
      );
      break;
    }
    case 'prohibition':
      facts.push(
        {
          question: 'What is forbidden?',
          answer: `${capitalized(action.offense[1])}.`,
          card: `Bars: ${action.offense[1]} by ${action.actor}`,
          report: `stops ${action.actor} from ${action.offense[1]}`,
          news: `It would be a crime for ${action.actor} to ${action.offense[0]}.`,
        },
        {
          question: 'What is the penalty?',
          answer: `A fine of up to ${dollars(action.fine)}.`,
          card: `Fines: up to ${dollars(action.fine)}`,
          report: `sets a fine of at most ${dollars(action.fine)}`,
          news: `The fine could reach ${dollars(action.fine)}.`,
        },
      );
      break;
    case 'amendment':
      facts.push(
        {
          question: 'Which law is changed?',
          answer: `The ${action.law}.`,
          card: `Changes: section ${action.section} under the ${action.law}`,
          report: `amends section ${action.section} of the ${action.law}`,
          news: `It rewrites a part of the ${action.law}.`,
        },
        {
          question: 'What is the new time?',
          answer: `${action.newDays} days, not ${action.oldDays}, for ${action.period}.`,
          card: `Time for ${action.period}: ${action.newDays} days, was ${action.oldDays} days`,
          report: `makes the time for ${action.period} ${action.newDays} days and not ${action.oldDays}`,
          news: `The time for ${action.period} would go from ${action.oldDays} to ${action.newDays} days.`,
        },
      );
      break;
    case 'reserve': {
      const acres = dollars(action.acres).slice(1);
      facts.push(
        {
          question: 'What is created?',
          answer: `The ${action.name}.`,
          card: `Creates: ${action.name}`,
          report: `adds the ${action.name}`,
          news: `The ${action.name} would be open to all.`,
        },
        {
          question: 'Where is it?',
          answer: `In ${action.county} County, ${action.state}.`,
          card: `Place: ${action.county} County, ${action.state}`,
          report: `protects land in ${action.county} County, ${action.state}`,
          news: `The land lies in ${action.county} County, ${action.state}.`,
        },
        {
          question: 'How large is it?',
          answer: `About ${acres} acres.`,
          card: `Size: ${acres} acres`,
          report: `covers ${acres} acres`,
          news: `It would have ${acres} acres.`,
        },
      );
      break;
    }
    case 'leave':
      facts.push(
        {
          question: 'What is the leave for?',
          answer: `For ${action.reason}.`,
          card: `Paid days off: ${action.days} for ${action.reason}`,
          report: `gives ${action.days} days for ${action.reason}`,
          news: `Workers could take ${action.days} paid days off for ${action.reason}.`,
        },
        {
          question: 'Which employers must obey?',
          answer: `Those with at least ${action.employees} workers.`,
          card: `Requires: employers with at least ${action.employees} workers`,
          report: `spares employers of fewer than ${action.employees} workers`,
          news: `Firms with at least ${action.employees} workers must obey.`,
        },
      );
      break;
    case 'commission':
      facts.push(
        {
          question: 'What does the commission examine?',
          answer: `${capitalized(action.subject)}.`,
          card: `Sets up: commission to examine ${action.subject}`,
          report: `has a commission look at ${action.subject}`,
          news: `A new commission would examine ${action.subject}.`,
        },
        {
          question: 'Who sits on it?',
          answer: `${action.members} members, named by ${action.appointer}.`,
          card: `Members: ${action.members}, by ${action.appointer}`,
          report: `lets ${action.appointer} choose ${action.members} members`,
          news: `Its ${action.members} members are named by ${action.appointer}.`,
        },
      );
      break;
  }
  if (money?.kind === 'yearly') {
    facts.push({
      question: 'How much money is there?',
      answer: `${dollars(money.dollars)} a year, from ${money.firstYear} through ${money.lastYear}.`,
      card: `Authorizes: ${dollars(money.dollars)} a year, ${money.firstYear} through ${money.lastYear}`,
      report: `costs ${dollars(money.dollars)} a year from ${money.firstYear} through ${money.lastYear}`,
      news: `It would cost ${dollars(money.dollars)} a year through ${money.lastYear}.`,
    });
  } else if (money?.kind === 'once') {
    facts.push({
      question: 'How much money is there?',
      answer: `${dollars(money.dollars)}, for ${money.year} only.`,
      card: `Authorizes: ${dollars(money.dollars)} in ${money.year}`,
      report: `costs ${dollars(money.dollars)} in ${money.year}`,
      news: `It would cost ${dollars(money.dollars)} in ${money.year}.`,
    });
  } else if (money?.kind === 'none') {
    facts.push({
      question: 'How much money is there?',
      answer: 'No new funds.',
      card: 'Authorizes: no new funds',
      report: 'adds no new funds',
      news: 'There are no new funds for it.',
    });
  }
  if (sunset?.kind === 'date') {
    facts.push({
      question: 'When does it end?',
      answer: `In September ${sunset.year}.`,
      card: `Expires: September ${sunset.year}`,
      report: `stops in September ${sunset.year}`,
      news: `The law would last until September ${sunset.year}.`,
    });
  } else if (sunset?.kind === 'years') {
    facts.push({
      question: 'When does it end?',
      answer: `After ${sunset.years} years.`,
      card: `Expires: after ${sunset.years} years`,
      report: `stops after ${sunset.years} years`,
      news: `The law would last ${sunset.years} years.`,
    });
  }
  return facts;
}

/**
 * A text in two parts. The continuation has the same facts as the context and can be derived from it. The context
 * itself, with its invented names and amounts, is hardly predictable.
 */
export interface PretrainingDocument {
  context: string;
  continuation: string;
}

/** A seeded, endless source of documents. Special tokens are written as text, which the tokenizer recognises. */
export class PretrainingDocuments {
  private readonly bills: BillGenerator;

  constructor(seed = 0) {
    this.bills = new BillGenerator('pretrain', seed);
  }

  /** Returns a bill and another text about it. */
  next(): PretrainingDocument {
    const bill = this.bills.next();
    const {random} = this.bills;
    const facts = billFacts(bill);
    const identity: Fact = {
      question: random.pick(['What is the short title?', 'What is it called?']),
      answer: `${bill.title}.`,
      card: `Title: ${bill.title}`,
      report: `may be cited as the ${bill.title}`,
      news: `It is called the ${bill.title}.`,
    };
    const draw = random.next();
    if (draw < 0.4) {
      const asked = random.shuffle([identity, ...facts, ...(random.chance(0.5) ? [numberFact(bill)] : [])]);
      return conversation(bill.text, asked);
    }
    let other: string;
    if (draw < 0.6) {
      const clauses = random
        .shuffle(facts)
        .map(({report}, index) => `${index === 0 ? 'The bill' : 'It'} ${report}.`);
      other = [`REPORT ON ${bill.number}.`, `The committee has read the ${bill.title}.`, ...clauses].join(
        ' ',
      );
    } else if (draw < 0.8) {
      const dateline = random.pick(['WASHINGTON', bill.sponsorState.toUpperCase()]);
      const sentences = random.shuffle([identity, ...facts]).map(({news}) => news);
      other = `NEWS FROM ${dateline}. ${sentences.join(' ')}`;
    } else {
      const lines = random.shuffle([identity, ...facts]).map(({card}) => `\n- ${card}`);
      other = `CARD FOR ${bill.number}${lines.join('')}`;
    }
    // Sometimes the other document comes first, so that the bill must be predicted from it.
    const [first, second] = random.chance(0.8) ? [bill.text, other] : [other, bill.text];
    return {context: `<|begin_of_text|>${first}\n\n`, continuation: `${second}<|end_of_text|>`};
  }

  /**
   * Returns a page of the clerk's journal: a list that is read twice, in the same or another order. The second reading
   * can be predicted from the first, and only from it, so it is the simplest lesson in copying.
   *
   * @param longest largest number of entries
   */
  journal(longest = 6): PretrainingDocument {
    const {random} = this.bills;
    const entries = Array.from({length: random.integer(1, longest)}, () => this.journalEntry());
    const again = random.chance(0.6) ? entries : random.shuffle(entries);
    return {
      context: `<|begin_of_text|>JOURNAL\nFIRST READING. ${entries.join('; ')}.\n`,
      continuation: `SECOND READING. ${again.join('; ')}.<|end_of_text|>`,
    };
  }

  private journalEntry(): string {
    const {bills} = this;
    const {random} = bills;
    const state = random.pick(STATES);
    const draw = random.next();
    if (draw < 0.25) {
      const number = `${random.chance(0.7) ? 'H.R.' : 'S.'} ${random.integer(101, 9899)}`;
      return `${number}, "${bills.lawTitle(random.pick(DOMAINS))}"`;
    }
    if (draw < 0.5) return `${bills.person()} of ${bills.name()}, ${state}`;
    if (draw < 0.75) {
      return `${dollars(random.integer(1, 999) * 10 ** random.integer(3, 5))} to ${bills.name()} County, ${state}`;
    }
    return `the ${bills.lawTitle(random.pick(DOMAINS))}, section ${random.integer(2, 99)}`;
  }
}

function numberFact({number}: Bill): Fact {
  return {question: 'What is its number?', answer: `${number}.`, card: '', report: '', news: ''};
}

/** Formats a conversation in Llama 3's chat format, in which the first question contains the bill. */
function conversation(text: string, facts: readonly Fact[]): PretrainingDocument {
  const [first, ...others] = facts;
  const turns = others.map(
    ({question, answer}) => `${header('user')}${question}<|eot_id|>${header('assistant')}${answer}`,
  );
  return {
    context: `<|begin_of_text|>${header('user')}${first.question}\n${text}<|eot_id|>${header('assistant')}`,
    continuation: `${[first.answer, ...turns].join('<|eot_id|>')}<|eot_id|>`,
  };
}

function header(role: string): string {
  return `<|start_header_id|>${role}<|end_header_id|>\n\n`;
}

function capitalized(text: string): string {
  return text[0].toUpperCase() + text.slice(1);
}
