/**
 * The words of the bill generator. People, places and titles are invented; states and federal agencies are real. An
 * activity is stored as `[infinitive, gerund]`, because bills say "to repair old bridges" where their summaries say
 * "for repairing old bridges".
 */

export type Activity = readonly [infinitive: string, gerund: string];

/** The words for bills on one subject. */
export interface Domain {
  /** Topics for short titles: `<Name> <topic> Act`. */
  topics: readonly string[];
  /** Agencies that may run a program, as keys of {@link AGENCIES}. */
  agencies: readonly string[];
  recipients: readonly string[];
  activities: readonly Activity[];
  /** Topics for a study or a commission. */
  subjects: readonly string[];
  /** Purposes of a tax credit. */
  purchases: readonly string[];
}

/** The name of the official in a bill, and of the agency in a summary. */
export const AGENCIES: Readonly<Record<string, {official: string; shortForm: string; agency: string}>> = {
  agriculture: {
    official: 'the Secretary of Agriculture',
    shortForm: 'Secretary',
    agency: 'the Department of Agriculture',
  },
  education: {
    official: 'the Secretary of Education',
    shortForm: 'Secretary',
    agency: 'the Department of Education',
  },
  energy: {official: 'the Secretary of Energy', shortForm: 'Secretary', agency: 'the Department of Energy'},
  environment: {
    official: 'the Administrator of the Environmental Protection Agency',
    shortForm: 'Administrator',
    agency: 'the Environmental Protection Agency',
  },
  commerce: {
    official: 'the Secretary of Commerce',
    shortForm: 'Secretary',
    agency: 'the Department of Commerce',
  },
  health: {
    official: 'the Secretary of Health and Human Services',
    shortForm: 'Secretary',
    agency: 'the Department of Health and Human Services',
  },
  homeland: {
    official: 'the Secretary of Homeland Security',
    shortForm: 'Secretary',
    agency: 'the Department of Homeland Security',
  },
  interior: {
    official: 'the Secretary of the Interior',
    shortForm: 'Secretary',
    agency: 'the Department of the Interior',
  },
  labor: {official: 'the Secretary of Labor', shortForm: 'Secretary', agency: 'the Department of Labor'},
  smallBusiness: {
    official: 'the Administrator of the Small Business Administration',
    shortForm: 'Administrator',
    agency: 'the Small Business Administration',
  },
  transportation: {
    official: 'the Secretary of Transportation',
    shortForm: 'Secretary',
    agency: 'the Department of Transportation',
  },
  veterans: {
    official: 'the Secretary of Veterans Affairs',
    shortForm: 'Secretary',
    agency: 'the Department of Veterans Affairs',
  },
};

export const DOMAINS: readonly Domain[] = [
  {
    topics: ['Clean Water', 'Safe Wells', 'River Restoration'],
    agencies: ['environment', 'interior', 'agriculture'],
    recipients: ['small towns', 'water districts', 'Indian tribes', 'county governments'],
    activities: [
      ['replace lead pipes', 'replacing lead pipes'],
      ['test private wells', 'testing private wells'],
      ['restore polluted rivers', 'restoring polluted rivers'],
      ['repair old dams', 'repairing old dams'],
      ['treat waste water', 'treating waste water'],
    ],
    subjects: ['the safety of drinking water', 'the cost of flood damage', 'the supply of ground water'],
    purchases: ['home water filters', 'rain water tanks'],
  },
  {
    topics: ['Rural Health', 'Patient Care', 'Nurse Training'],
    agencies: ['health', 'veterans'],
    recipients: ['rural hospitals', 'community clinics', 'nursing schools', 'county governments'],
    activities: [
      ['train emergency nurses', 'training emergency nurses'],
      ['buy mobile clinics', 'buying mobile clinics'],
      ['screen children for asthma', 'screening children for asthma'],
      ['treat opioid addiction', 'treating opioid addiction'],
      ['hire family doctors', 'hiring family doctors'],
    ],
    subjects: ['the shortage of nurses', 'the price of insulin', 'the closing of rural hospitals'],
    purchases: ['hearing aids', 'home medical devices'],
  },
  {
    topics: ['Family Farm', 'Healthy Soil', 'Young Farmers'],
    agencies: ['agriculture', 'smallBusiness'],
    recipients: ['family farms', 'dairy producers', 'state universities', 'food banks'],
    activities: [
      ['protect farm soil', 'protecting farm soil'],
      ['store surplus grain', 'storing surplus grain'],
      ['control invasive insects', 'controlling invasive insects'],
      ['deliver fresh food', 'delivering fresh food'],
      ['train young farmers', 'training young farmers'],
    ],
    subjects: ['the loss of family farms', 'the health of honey bees', 'the price of farm land'],
    purchases: ['farm storage equipment', 'drought resistant seed'],
  },
  {
    topics: ['School Success', 'Reading First', 'Student Safety'],
    agencies: ['education', 'labor'],
    recipients: ['public schools', 'community colleges', 'state universities', 'public libraries'],
    activities: [
      ['teach early reading', 'teaching early reading'],
      ['repair school roofs', 'repairing school roofs'],
      ['hire school counselors', 'hiring school counselors'],
      ['train science teachers', 'training science teachers'],
      ['serve free breakfast', 'serving free breakfast'],
    ],
    subjects: ['the cost of college', 'the shortage of teachers', 'the safety of school buses'],
    purchases: ['school supplies', 'college textbooks'],
  },
  {
    topics: ['Veterans Service', 'Heroes Housing', 'Military Families'],
    agencies: ['veterans', 'labor', 'health'],
    recipients: ['veterans groups', 'community clinics', 'state governments', 'housing agencies'],
    activities: [
      ['house homeless veterans', 'housing homeless veterans'],
      ['train guide dogs', 'training guide dogs'],
      ['counsel military families', 'counseling military families'],
      ['restore veterans cemeteries', 'restoring veterans cemeteries'],
      ['hire disabled veterans', 'hiring disabled veterans'],
    ],
    subjects: ['the health of veterans', 'the delay of disability claims', 'the cost of military housing'],
    purchases: ['wheelchair ramps', 'home medical devices'],
  },
  {
    topics: ['Safe Bridges', 'Rail Access', 'Road Safety'],
    agencies: ['transportation', 'homeland'],
    recipients: ['state governments', 'port authorities', 'transit agencies', 'small towns'],
    activities: [
      ['repair old bridges', 'repairing old bridges'],
      ['buy electric buses', 'buying electric buses'],
      ['build bicycle paths', 'building bicycle paths'],
      ['inspect freight trains', 'inspecting freight trains'],
      ['widen mountain roads', 'widening mountain roads'],
    ],
    subjects: ['the safety of rail crossings', 'the cost of road repair', 'the age of highway bridges'],
    purchases: ['electric trucks', 'child safety seats'],
  },
  {
    topics: ['Solar Power', 'Energy Savings', 'Power Grid'],
    agencies: ['energy', 'commerce'],
    recipients: ['electric cooperatives', 'Indian tribes', 'state universities', 'housing agencies'],
    activities: [
      ['install solar panels', 'installing solar panels'],
      ['insulate older homes', 'insulating older homes'],
      ['bury power lines', 'burying power lines'],
      ['test large batteries', 'testing large batteries'],
      ['plug abandoned oil wells', 'plugging abandoned oil wells'],
    ],
    subjects: ['the reliability of the power grid', 'the price of natural gas', 'the recycling of batteries'],
    purchases: ['heat pumps', 'home solar panels'],
  },
  {
    topics: ['Digital Access', 'Data Privacy', 'Small Business'],
    agencies: ['commerce', 'smallBusiness', 'homeland'],
    recipients: ['public libraries', 'small businesses', 'rural counties', 'community colleges'],
    activities: [
      ['extend broadband service', 'extending broadband service'],
      ['teach computer skills', 'teaching computer skills'],
      ['prevent online fraud', 'preventing online fraud'],
      ['export local products', 'exporting local products'],
      ['protect medical records', 'protecting medical records'],
    ],
    subjects: ['the cost of internet service', 'the sale of personal data', 'the growth of small businesses'],
    purchases: ['business computers', 'security software'],
  },
  {
    topics: ['Fire Prevention', 'Disaster Relief', 'Forest Health'],
    agencies: ['homeland', 'interior', 'agriculture'],
    recipients: ['fire departments', 'rural counties', 'state governments', 'Indian tribes'],
    activities: [
      ['clear dry brush', 'clearing dry brush'],
      ['build storm shelters', 'building storm shelters'],
      ['train volunteer firefighters', 'training volunteer firefighters'],
      ['plant native trees', 'planting native trees'],
      ['repair flood walls', 'repairing flood walls'],
    ],
    subjects: ['the cause of forest fires', 'the cost of flood damage', 'the speed of disaster aid'],
    purchases: ['storm shelters', 'smoke alarms'],
  },
];

/** Offenders and their offences, as an infinitive for the bill and a gerund for the summary. */
export const ACTORS: readonly string[] = [
  'an airline',
  'a bank',
  'a data broker',
  'a drug maker',
  'a landlord',
  'a mining company',
  'a mobile phone company',
  'an online store',
  'a pipeline owner',
  'a school lender',
];

export const OFFENSES: readonly Activity[] = [
  ['sell the location of a customer', 'selling the location of a customer'],
  ['charge a hidden fee', 'charging a hidden fee'],
  ['destroy safety records', 'destroying safety records'],
  ['advertise a false price', 'advertising a false price'],
  ['dump waste in a river', 'dumping waste in a river'],
  ['record a child without consent', 'recording a child without consent'],
  ['refuse a refund', 'refusing a refund'],
  ['punish a worker who reports a danger', 'punishing a worker who reports a danger'],
  ['deny service because of age', 'denying service because of age'],
  ['share medical records', 'sharing medical records'],
];

/** Periods in older laws that a bill may change. */
export const PERIODS: readonly string[] = [
  'appealing a permit',
  'answering a complaint',
  'filing a claim',
  'paying a fine',
  'recalling a product',
  'renewing a license',
  'reporting a spill',
  'reviewing a loan',
];

export const LEAVE_REASONS: readonly string[] = [
  'caring for a sick parent',
  'donating blood',
  'jury service',
  'medical checkups',
  'military training',
  'school meetings',
  'volunteer firefighting',
  'voting',
];

export const FACILITIES: readonly {text: string; building: string; summary: string}[] = [
  {
    text: 'The facility of the United States Postal Service',
    building: 'Post Office Building',
    summary: 'the post office',
  },
  {
    text: 'The clinic of the Department of Veterans Affairs',
    building: 'Veterans Clinic',
    summary: 'the veterans clinic',
  },
  {text: 'The Federal courthouse', building: 'United States Courthouse', summary: 'the federal courthouse'},
  {text: 'The Federal building', building: 'Federal Building', summary: 'the federal building'},
];

export const RESERVES: readonly string[] = [
  'Wildlife Refuge',
  'Historic Site',
  'Recreation Area',
  'Conservation Area',
  'Monument',
  'Seashore',
];

export const APPOINTERS: readonly string[] = [
  'the President',
  'the Speaker of the House',
  'the governors',
  'the Chief Justice',
];

export const STATES: readonly string[] = [
  'Alabama',
  'Alaska',
  'Arizona',
  'Colorado',
  'Florida',
  'Georgia',
  'Idaho',
  'Iowa',
  'Kansas',
  'Kentucky',
  'Maine',
  'Michigan',
  'Minnesota',
  'Montana',
  'Nebraska',
  'Nevada',
  'New Mexico',
  'New York',
  'Ohio',
  'Oregon',
  'Texas',
  'Utah',
  'Vermont',
  'Wyoming',
];

/** Beginnings of place names and family names. With the endings they make hundreds of names, most of them rare. */
export const NAME_BEGINNINGS: readonly string[] = [
  'Al',
  'Ash',
  'Bar',
  'Bel',
  'Bran',
  'Cal',
  'Car',
  'Cold',
  'Dal',
  'Dun',
  'East',
  'El',
  'Fair',
  'Gar',
  'Glen',
  'Hal',
  'Har',
  'Hol',
  'Ken',
  'Kil',
  'Lang',
  'Lin',
  'Mar',
  'Mel',
  'Mor',
  'Nor',
  'Old',
  'Pem',
  'Quin',
  'Rad',
  'Red',
  'Ros',
  'Sel',
  'Stan',
  'Thorn',
  'Tor',
  'Ul',
  'Val',
  'Wal',
  'Win',
];

export const NAME_ENDINGS: readonly string[] = [
  'berg',
  'bourne',
  'brook',
  'bury',
  'by',
  'cott',
  'dale',
  'den',
  'don',
  'field',
  'ford',
  'gate',
  'ham',
  'ley',
  'low',
  'man',
  'mere',
  'more',
  'ridge',
  'son',
  'stead',
  'ton',
  'vale',
  'wick',
];

export const FIRST_NAMES: readonly string[] = [
  'Ada',
  'Amos',
  'Anna',
  'Carl',
  'Clara',
  'Daniel',
  'David',
  'Edith',
  'Elena',
  'Frank',
  'Grace',
  'Henry',
  'Ida',
  'James',
  'Jose',
  'Julia',
  'Karen',
  'Leo',
  'Linda',
  'Luis',
  'Maria',
  'Martin',
  'Nora',
  'Oscar',
  'Paul',
  'Rosa',
  'Ruth',
  'Samuel',
  'Susan',
  'Thomas',
  'Victor',
  'Walter',
];

export const STREETS: readonly string[] = [
  'Main Street',
  'Oak Street',
  'First Avenue',
  'Court Street',
  'Mill Road',
];
