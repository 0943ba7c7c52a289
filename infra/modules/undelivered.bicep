// Who is told when Event Grid gives up on an event. The app cannot know: it never saw it. Runbook: docs/runbooks/events-undelivered.md
param topicId string
param actionGroupId string
param namePrefix string
param tags object

// Kept as a dead letter; or dropped, where even that failed.
var counts = ['DeadLetteredCount', 'DroppedEventCount']

resource alerts 'Microsoft.Insights/metricAlerts@2018-03-01' = [for count in counts: {
  name: '${namePrefix}-${count}'
  location: 'global'
  tags: tags
  properties: {
    description: 'Event Grid gave up on events; what they told of is missed until a scan. Runbook: docs/runbooks/events-undelivered.md'
    severity: 2
    enabled: true
    autoMitigate: true
    scopes: [topicId]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT15M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: count
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.EventGrid/systemTopics'
          metricName: count
          timeAggregation: 'Total'
          operator: 'GreaterThan'
          threshold: 0
          skipMetricValidation: true // a metric that never had a value is not known yet
        }
      ]
    }
    actions: [{ actionGroupId: actionGroupId }]
  }
}]
